// What the fits are worth: errors on the held-out samples, by set of models, as a table and as files.
// Thread rule: plain values.
#ifndef ABACUS_PREDICTOR_TRAIN_EVALUATION_H_
#define ABACUS_PREDICTOR_TRAIN_EVALUATION_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "predictor/train/dataset.h"
#include "predictor/train/regression.h"

namespace abacus {

// A held-out sample; times in microseconds.
struct Predicted {
  uint32_t row = 0;  // of the dataset
  double measured_us = 0;
  double network_us = 0;
  double linear_us = 0;
  double svm_us = 0;
};

// Shares of the measured time: 0.02 is 2 %.
struct ErrorFigures {
  uint64_t samples = 0;
  double network = 0;  // mean absolute error
  double linear = 0;
  double svm = 0;
  double p99 = 0;    // of the network's absolute error
  double under = 0;  // share of samples that took over kUnderPredicted longer than the network said
};
inline constexpr double kUnderPredicted = 0.05;
ErrorFigures FiguresOf(std::span<const Predicted> rows);

struct FoldResult {
  uint64_t samples = 0;
  double mape = 0;
  uint32_t best_epoch = 0;
  double seconds = 0;
};

struct Evaluation {
  std::vector<Predicted> rows;
  std::vector<ErrorFigures> by_set;        // as Dataset::sets
  std::map<size_t, ErrorFigures> by_size;  // number of models -> figures
  ErrorFigures overall;
  std::vector<FoldResult> folds;
  double folds_mean = 0;
  double folds_deviation = 0;  // of the sample of folds
};
// `network`, `linear` and `svm` have predicted `test`.
Evaluation Evaluate(const Dataset& dataset, std::span<const uint32_t> test, const Fit& network, const Fit& linear,
                    const Fit& svm, std::vector<FoldResult> folds);
// Mean absolute error of `fit` on `test`.
double MapeOf(const Dataset& dataset, std::span<const uint32_t> test, const Fit& fit);
// measured / predicted - 1 at 0, 0.001, .., 1.
std::vector<double> ResidualQuantiles(std::span<const Predicted> rows);

// What the data holds, in lines.
std::string DataText(const Dataset& dataset);
// Pairs one by one, then mean and worst of the larger sets, then all.
std::string TableText(const Dataset& dataset, const Evaluation& evaluation);

struct RunFacts {
  uint64_t seed = 0;
  uint64_t train_samples = 0;
  uint64_t validation_samples = 0;
  uint64_t svm_samples = 0;
  uint32_t hidden_layers = 0;
  uint32_t epochs = 0;
  uint32_t best_epoch = 0;
};
// Writes error_by_set.csv, predictions.csv, folds.csv and summary.json into `folder`.
Status WriteReport(const Dataset& dataset, const Evaluation& evaluation, const RunFacts& facts,
                   const std::filesystem::path& folder);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_EVALUATION_H_
