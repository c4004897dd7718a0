#include "predictor/train/work_dir.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "base/file.h"

namespace abacus {
namespace {

using json = nlohmann::json;

json ToJson(const Fit& fit) {
  json layers = json::array();
  for (const MlpLayer& layer : fit.layers) {
    layers.push_back(
        {{"inputs", layer.inputs}, {"outputs", layer.outputs}, {"weights", layer.weights}, {"bias", layer.bias}});
  }
  return {{"targets", fit.targets},       {"layers", std::move(layers)},
          {"best_epoch", fit.best_epoch}, {"validation_mape", fit.validation_mape},
          {"samples", fit.samples},       {"seconds", fit.seconds}};
}

Fit FromJson(const json& value) {
  Fit fit;
  value.at("targets").get_to(fit.targets);
  value.at("best_epoch").get_to(fit.best_epoch);
  value.at("validation_mape").get_to(fit.validation_mape);
  value.at("samples").get_to(fit.samples);
  value.at("seconds").get_to(fit.seconds);
  for (const json& entry : value.at("layers")) {
    MlpLayer layer;
    entry.at("inputs").get_to(layer.inputs);
    entry.at("outputs").get_to(layer.outputs);
    entry.at("weights").get_to(layer.weights);
    entry.at("bias").get_to(layer.bias);
    fit.layers.push_back(std::move(layer));
  }
  return fit;
}

}  // namespace

Result<WorkDir> WorkDir::Open(std::filesystem::path path, std::string key, bool fresh) {
  std::error_code error;
  if (fresh) std::filesystem::remove_all(path, error);
  if (!error) std::filesystem::create_directories(path, error);
  if (error) {
    return Error(StatusCode::kUnavailable, fmt::format("{}: cannot be made: {}", path.string(), error.message()));
  }
  return WorkDir(std::move(path), std::move(key));
}

std::optional<Fit> WorkDir::Load(const std::string& stage) const {
  std::ifstream file(FileOf(stage));
  if (!file) return std::nullopt;
  try {
    const json value = json::parse(file);
    if (value.at("key") != key_) return std::nullopt;
    return FromJson(value.at("fit"));
  } catch (const json::exception&) {
    return std::nullopt;  // of another version, or damaged: done again
  }
}

Status WorkDir::Save(const std::string& stage, const Fit& fit) const {
  return WriteWholeFile(FileOf(stage), json{{"key", key_}, {"fit", ToJson(fit)}}.dump());
}

void WorkDir::Remove() const {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace abacus
