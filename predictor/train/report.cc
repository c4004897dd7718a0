#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "predictor/train/evaluation.h"

namespace abacus {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const ErrorFigures& f) {
  return {{"samples", f.samples}, {"mape", f.network},     {"linear_mape", f.linear},
          {"svm_mape", f.svm},    {"p99_absolute", f.p99}, {"under_predicted", f.under}};
}

std::string SummaryText(const Dataset& dataset, const Evaluation& evaluation, const RunFacts& facts) {
  Json summary = {{"device", dataset.subject.device},       {"driver", dataset.subject.driver},
                  {"libraries", dataset.subject.libraries}, {"groups", dataset.samples.size()},
                  {"train_samples", facts.train_samples},   {"validation_samples", facts.validation_samples},
                  {"svm_samples", facts.svm_samples},       {"seed", facts.seed},
                  {"hidden_layers", facts.hidden_layers},   {"epochs", facts.epochs},
                  {"best_epoch", facts.best_epoch},         {"held_out", ToJson(evaluation.overall)}};
  for (const auto& [size, figures] : evaluation.by_size)
    summary["held_out_by_size"][std::to_string(size)] = ToJson(figures);
  summary["folds"] = {{"count", evaluation.folds.size()},
                      {"mape_mean", evaluation.folds_mean},
                      {"mape_deviation", evaluation.folds_deviation}};
  return summary.dump(2) + "\n";
}

std::string ErrorBySetText(const Dataset& dataset, const Evaluation& evaluation) {
  std::string text = "set,models,groups,held_out,mape,linear_mape,svm_mape,p99_absolute,under_predicted\n";
  for (size_t i = 0; i < dataset.sets.size(); ++i) {
    const ErrorFigures& f = evaluation.by_set[i];
    if (f.samples == 0) continue;
    text += fmt::format("{},{},{},{},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f}\n", dataset.sets[i].name,
                        dataset.sets[i].models.size(), dataset.sets[i].samples, f.samples, f.network, f.linear, f.svm,
                        f.p99, f.under);
  }
  return text;
}

std::string PredictionsText(const Dataset& dataset, const Evaluation& evaluation) {
  std::string text = "set,ranges,measured_us,predicted_us,linear_us,svm_us,spread\n";
  for (const Predicted& row : evaluation.rows) {
    const GroupSample& sample = dataset.samples[row.row];
    text += fmt::format("{},{},{:.3f},{:.3f},{:.3f},{:.3f},{:.5f}\n", dataset.sets[dataset.set_of[row.row]].name,
                        RangesText(dataset.subject, sample.ranges), row.measured_us, row.network_us, row.linear_us,
                        row.svm_us, sample.spread);
  }
  return text;
}

std::string FoldsText(const Evaluation& evaluation) {
  std::string text = "fold,samples,mape,best_epoch,seconds\n";
  for (size_t i = 0; i < evaluation.folds.size(); ++i) {
    const FoldResult& fold = evaluation.folds[i];
    text += fmt::format("{},{},{:.6f},{},{:.1f}\n", i + 1, fold.samples, fold.mape, fold.best_epoch, fold.seconds);
  }
  return text;
}

}  // namespace

Status WriteReport(const Dataset& dataset, const Evaluation& evaluation, const RunFacts& facts,
                   const std::filesystem::path& folder) {
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  const auto write = [&folder](const char* name, const std::string& text) {
    std::ofstream file(folder / name);
    file << text;
    file.close();
    return file ? Status::Ok() : Status(StatusCode::kUnavailable, (folder / name).string() + ": cannot be written");
  };
  ABACUS_RETURN_IF_ERROR(write("error_by_set.csv", ErrorBySetText(dataset, evaluation)));
  ABACUS_RETURN_IF_ERROR(write("predictions.csv", PredictionsText(dataset, evaluation)));
  ABACUS_RETURN_IF_ERROR(write("folds.csv", FoldsText(evaluation)));
  return write("summary.json", SummaryText(dataset, evaluation, facts));
}

}  // namespace abacus
