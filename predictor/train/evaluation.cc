#include "predictor/train/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace abacus {
namespace {

double MedianOf(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The value below which the share `q` of `ascending` lies, linear between neighbours.
double QuantileOf(std::span<const double> ascending, double q) {
  if (ascending.empty()) return 0;
  const double at = q * static_cast<double>(ascending.size() - 1);
  const auto low = static_cast<size_t>(at), high = std::min(low + 1, ascending.size() - 1);
  return ascending[low] + (at - static_cast<double>(low)) * (ascending[high] - ascending[low]);
}

double ErrorOf(double predicted_us, double measured_us) { return std::abs(predicted_us / measured_us - 1); }

std::string FiguresText(const std::string& name, const ErrorFigures& f) {
  return fmt::format("{:<44} {:>7} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}\n", name, f.samples, 100 * f.network,
                     100 * f.linear, 100 * f.svm, 100 * f.p99, 100 * f.under);
}

}  // namespace

ErrorFigures FiguresOf(std::span<const Predicted> rows) {
  ErrorFigures figures;
  figures.samples = rows.size();
  if (rows.empty()) return figures;
  const auto count = static_cast<double>(rows.size());
  std::vector<double> errors;
  for (const Predicted& row : rows) {
    errors.push_back(ErrorOf(row.network_us, row.measured_us));
    figures.network += errors.back() / count;
    figures.linear += ErrorOf(row.linear_us, row.measured_us) / count;
    figures.svm += ErrorOf(row.svm_us, row.measured_us) / count;
    if (row.measured_us > (1 + kUnderPredicted) * row.network_us) figures.under += 1 / count;
  }
  std::sort(errors.begin(), errors.end());
  figures.p99 = QuantileOf(errors, 0.99);
  return figures;
}

Evaluation Evaluate(const Dataset& dataset, std::span<const uint32_t> test, const Fit& network, const Fit& linear,
                    const Fit& svm, std::vector<FoldResult> folds) {
  Evaluation evaluation;
  std::vector<std::vector<Predicted>> of_set(dataset.sets.size());
  std::map<size_t, std::vector<Predicted>> of_size;
  for (size_t i = 0; i < test.size(); ++i) {
    const uint32_t row = test[i];
    const GroupTimes& times = dataset.times[row];
    const Predicted predicted = {row, dataset.samples[row].us, DecodeTime(network.targets[i], times),
                                 DecodeTime(linear.targets[i], times), DecodeTime(svm.targets[i], times)};
    evaluation.rows.push_back(predicted);
    of_set[dataset.set_of[row]].push_back(predicted);
    of_size[dataset.samples[row].ranges.size()].push_back(predicted);
  }
  for (const std::vector<Predicted>& rows : of_set) evaluation.by_set.push_back(FiguresOf(rows));
  for (const auto& [size, rows] : of_size) evaluation.by_size[size] = FiguresOf(rows);
  evaluation.overall = FiguresOf(evaluation.rows);
  evaluation.folds = std::move(folds);
  std::vector<double> errors;
  for (const FoldResult& fold : evaluation.folds) {
    if (fold.samples > 0) errors.push_back(fold.mape);  // with few samples some of many folds are empty
  }
  const auto count = static_cast<double>(errors.size());
  for (const double error : errors) evaluation.folds_mean += error / count;
  for (const double error : errors) {
    if (count > 1) evaluation.folds_deviation += std::pow(error - evaluation.folds_mean, 2) / (count - 1);
  }
  evaluation.folds_deviation = std::sqrt(evaluation.folds_deviation);
  return evaluation;
}

double MapeOf(const Dataset& dataset, std::span<const uint32_t> test, const Fit& fit) {
  double sum = 0;
  for (size_t i = 0; i < test.size(); ++i) {
    sum += ErrorOf(DecodeTime(fit.targets[i], dataset.times[test[i]]), dataset.samples[test[i]].us);
  }
  return test.empty() ? 0 : sum / static_cast<double>(test.size());
}

std::vector<double> ResidualQuantiles(std::span<const Predicted> rows) {
  std::vector<double> residuals;
  for (const Predicted& row : rows) residuals.push_back(row.measured_us / row.network_us - 1);
  std::sort(residuals.begin(), residuals.end());
  std::vector<double> quantiles;
  for (int mille = 0; mille <= 1000; ++mille) quantiles.push_back(QuantileOf(residuals, mille / 1000.0));
  return quantiles;
}

std::string DataText(const Dataset& dataset) {
  const ProfileData& subject = dataset.subject;
  std::string text = fmt::format("device     {}\nlibraries  {}\nmodels    ", subject.device, subject.libraries);
  for (const ModelProfile& model : subject.models) text += fmt::format(" {} ({})", model.name, model.buckets.size());
  text += "  (buckets)\ngroups    ";
  std::map<size_t, size_t> of_size;
  std::vector<double> spreads;
  for (const GroupSample& sample : dataset.samples) {
    ++of_size[sample.ranges.size()];
    if (sample.repetitions > 1) spreads.push_back(sample.spread);
  }
  for (const auto& [size, count] : of_size) text += fmt::format(" {} of {} models,", count, size);
  text += fmt::format(" {} in all", dataset.samples.size());
  if (subject.skipped > 0) text += fmt::format("; {} were skipped while profiling", subject.skipped);
  if (!spreads.empty()) {
    text += fmt::format("\nnoise      median spread of repetitions {:.2f} %", 100 * MedianOf(spreads));
  }
  if (!dataset.alone_errors.empty()) {
    text += fmt::format("\nalone      {} groups of one range; their solo times are off by {:.2f} % (median)",
                        dataset.alone_errors.size(), 100 * MedianOf(dataset.alone_errors));
  }
  return text + "\n";
}

std::string TableText(const Dataset& dataset, const Evaluation& evaluation) {
  std::string text = fmt::format("{:<44} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "held-out error, %", "samples",
                                 "network", "linear", "SVM", "p99", "under 5 %");
  std::map<size_t, size_t> worst;  // number of models -> set
  for (size_t i = 0; i < dataset.sets.size(); ++i) {
    if (evaluation.by_set[i].samples == 0) continue;
    const size_t size = dataset.sets[i].models.size();
    if (size == 2) text += FiguresText(dataset.sets[i].name, evaluation.by_set[i]);
    const auto [it, first] = worst.try_emplace(size, i);
    if (!first && evaluation.by_set[i].network > evaluation.by_set[it->second].network) it->second = i;
  }
  for (const auto& [size, figures] : evaluation.by_size) {
    text += FiguresText(fmt::format("{} models: mean", size), figures);
    const size_t set = worst.at(size);
    text += FiguresText(fmt::format("  worst: {}", dataset.sets[set].name), evaluation.by_set[set]);
  }
  return text + FiguresText("all", evaluation.overall);
}

}  // namespace abacus
