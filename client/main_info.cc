// abacus-client models and abacus-client health.
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/duration.h"
#include "client/commands.h"

namespace abacus {
namespace {

using Json = nlohmann::ordered_json;

void Print(const Json& json) { std::puts(json.dump(2, ' ', false, Json::error_handler_t::replace).c_str()); }

Json ToJson(const std::vector<protocol::TensorDescription>& tensors) {
  Json list = Json::array();
  for (const auto& tensor : tensors) {
    Json json = {{"name", tensor.name}, {"dtype", DTypeName(tensor.dtype)}, {"dims", tensor.dims}};
    if (tensor.has_range) json["range"] = {tensor.low, tensor.high};
    if (tensor.range_to_sequence) json["range_to_sequence"] = true;
    if (tensor.has_float_range) json["float_range"] = {tensor.float_low, tensor.float_high};
    list.push_back(std::move(json));
  }
  return list;
}

std::string ToText(const protocol::TensorDescription& tensor) {
  std::string text = tensor.name + " " + std::string(DTypeName(tensor.dtype)) + "[";
  for (size_t i = 0; i < tensor.dims.size(); ++i) text += (i > 0 ? ", " : "") + tensor.dims[i];
  text += "]";
  if (tensor.has_range) {
    text += " in " + std::to_string(tensor.low) + ".." +
            (tensor.range_to_sequence ? "sequence" : std::to_string(tensor.high));
  }
  if (tensor.has_float_range) {
    std::array<char, 64> range;
    std::snprintf(range.data(), range.size(), " in %g..%g", tensor.float_low, tensor.float_high);
    text += range.data();
  }
  return text;
}

std::string ToText(const std::vector<int64_t>& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return text;
}

}  // namespace

int RunModelsCommand(const CommonOptions& common) {
  const auto client = ConnectTo(common);
  if (!client) return ReportError(common, client.error());
  const auto models = (*client)->Models();
  if (!models) return ReportError(common, models.error());
  Json list = Json::array();
  for (const auto& model : *models) {
    if (common.json) {
      list.push_back({{"name", model.name},
                      {"inputs", ToJson(model.inputs)},
                      {"outputs", ToJson(model.outputs)},
                      {"batch", model.batch_sizes},
                      {"batchable", model.batchable},
                      {"sequence", model.sequence_lengths},
                      {"sequence_padding", model.sequence_padding},
                      {"qos_us", model.qos_us},
                      {"digest", model.digest}});
      continue;
    }
    std::printf("%s: target %s, batch %s%s", model.name.c_str(), FormatDuration(model.qos_us * kNsPerUs).c_str(),
                ToText(model.batch_sizes).c_str(), model.batchable ? "" : " exactly (rows depend on each other)");
    if (!model.sequence_lengths.empty()) std::printf(", sequence %s", ToText(model.sequence_lengths).c_str());
    if (model.sequence_padding == "exact") std::printf(" exactly (padding changes the outputs)");
    if (model.sequence_padding == "allowed") std::printf(" (padding changes the outputs, which was allowed)");
    std::printf("\n");
    for (const auto& tensor : model.inputs) std::printf("  in   %s\n", ToText(tensor).c_str());
    for (const auto& tensor : model.outputs) std::printf("  out  %s\n", ToText(tensor).c_str());
  }
  if (common.json) Print({{"models", std::move(list)}});
  return 0;
}

int RunHealthCommand(const CommonOptions& common) {
  const auto client = ConnectTo(common);
  if (!client) return ReportError(common, client.error());
  const auto health = (*client)->Health();
  if (!health) return ReportError(common, health.error());
  Json list = Json::array();
  if (!common.json) {
    std::printf("%s\n", health->ready ? "ready" : "not ready");
    std::printf("%-20s %-10s %10s %8s %9s\n", "service", "state", "pid", "queued", "restarts");
  }
  for (const auto& service : health->services) {
    if (common.json) {
      list.push_back({{"name", service.name},
                      {"state", service.state},
                      {"pid", service.worker_pid},
                      {"queued", service.queued},
                      {"restarts", service.restarts},
                      {"message", service.message}});
      continue;
    }
    std::printf("%-20s %-10s %10lld %8llu %9llu  %s\n", service.name.c_str(), service.state.c_str(),
                static_cast<long long>(service.worker_pid), static_cast<unsigned long long>(service.queued),
                static_cast<unsigned long long>(service.restarts), service.message.c_str());
  }
  if (common.json) {
    Print({{"ready", health->ready},
           {"max_frame_bytes", health->max_frame_bytes},
           {"max_message_bytes", health->max_message_bytes},
           {"lease", health->lease},
           {"services", std::move(list)}});
  }
  return health->ready ? 0 : 1;
}

}  // namespace abacus
