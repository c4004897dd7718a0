// What is fitted to the samples: the network and a linear regression (LibTorch), and a support vector machine (libsvm).
//
// All of them learn standardised columns and target and predict raw targets (features.h, EncodeTime).
// regression_torch.cc is the only file that includes LibTorch. Deterministic from the seed: every fit runs in the
// calling thread and has a random generator of its own. A fit gives up soon after `stop` becomes true and returns
// nothing then. Thread rule: fits may run concurrently.
#ifndef ABACUS_PREDICTOR_TRAIN_REGRESSION_H_
#define ABACUS_PREDICTOR_TRAIN_REGRESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "predictor/mlp.h"
#include "predictor/train/dataset.h"

namespace abacus {

// The network has few weights, so that it is quick to evaluate, and measured groups are few. So large networks (the
// teachers) learn from the measured groups, and the network learns what they say, on average, about many more groups
// that nobody measured.
struct NetworkRecipe {
  uint32_t hidden_layers = 2;
  uint32_t epochs = 30;  // of the network: passes over measured and made-up groups
  uint32_t teachers = 4;
  uint32_t teacher_steps = 3000;
  uint32_t made_up = 100'000;
  uint64_t seed = 1;
};

// What a fit leaves behind.
struct Fit {
  std::vector<float> targets;    // predicted for Split::test, in its order
  std::vector<MlpLayer> layers;  // of the network, on raw columns
  uint32_t best_epoch = 0;
  double validation_mape = 0;
  uint64_t samples = 0;  // that it was fitted to
  double seconds = 0;
};

// After each epoch: share of all work done, what is being trained, epoch, epochs, validation MAPE.
using FitProgress = std::function<void(double, const std::string&, uint32_t, uint32_t, double)>;
std::optional<Fit> FitNetwork(const Dataset& dataset, const Split& split, const NetworkRecipe& recipe,
                              const std::atomic<bool>& stop, const FitProgress& progress);

Fit FitLinear(const Dataset& dataset, const Split& split);

// Time grows with the square of the samples: more than kMaxSvmSamples are thinned out.
inline constexpr size_t kMaxSvmSamples = 6000;
std::optional<Fit> FitSvm(const Dataset& dataset, const Split& split, const std::atomic<bool>& stop);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_REGRESSION_H_
