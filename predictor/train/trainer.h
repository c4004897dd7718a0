// Trainer: from profiles to a predictor file. What abacus-train does, without its command line.
//
// Stages (the network, linear regression, SVM, one network per fold) run on several threads; each is deterministic by
// itself, so the result does not depend on their number. Finished stages are kept beside the predictor, in
// FILE.work/, until the predictor is written.
// Thread rule: one Train per output file at a time.
#ifndef ABACUS_PREDICTOR_TRAIN_TRAINER_H_
#define ABACUS_PREDICTOR_TRAIN_TRAINER_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "predictor/predictor_file.h"
#include "predictor/train/dataset.h"
#include "predictor/train/evaluation.h"
#include "predictor/train/regression.h"

namespace abacus {

struct TrainOptions {
  std::vector<std::filesystem::path> profiles;
  std::filesystem::path out;
  std::filesystem::path report;  // empty: none
  DatasetOptions dataset;
  NetworkRecipe recipe;
  uint32_t threads = 1;
  bool fresh = false;                                    // forget finished stages of an earlier run
  std::function<void(const std::string&)> on_stage_end;  // after a stage is kept; from any thread
};

struct TrainOutcome {
  bool interrupted = false;  // `stop` became true; the rest is empty then
  Evaluation evaluation;
};

// Prints what it finds to standard output and its progress to standard error.
Result<TrainOutcome> Train(const TrainOptions& options, const std::atomic<bool>& stop);

// Fails unless `predictor` says the same about the samples in `test` as LibTorch said in `network`, to 1e-5: by Mlp,
// and by OverlapModel as the controller uses it.
Status CheckPredictor(const PredictorFile& predictor, const Dataset& dataset, std::span<const uint32_t> test,
                      const Fit& network);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_TRAINER_H_
