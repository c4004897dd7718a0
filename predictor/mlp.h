// Mlp: the trained network, evaluated in the controller. Fully connected layers with ReLU between them, one output.
//
// The first layer is kept apart: its inputs are sums over the ranges of a group (features.h), so a caller adds up the
// shares of the ranges that it knows already and tries out many last ranges cheaply.
//
// Vectorised with AVX-512, AVX2 or plain code, chosen once when loaded. Results agree with the trainer's network to
// 1e-5 relative. No allocation after Create. Thread rule: const calls may run concurrently.
#ifndef ABACUS_PREDICTOR_MLP_H_
#define ABACUS_PREDICTOR_MLP_H_

#include <cstddef>
#include <span>
#include <vector>

#include "base/status.h"

namespace abacus {

inline constexpr size_t kMaxLayers = 8;     // the output layer among them
inline constexpr size_t kHiddenWidth = 64;  // of every hidden layer; a multiple of the widest vector

struct MlpLayer {
  size_t inputs = 0;
  size_t outputs = 0;
  std::vector<float> weights;  // [inputs][outputs]
  std::vector<float> bias;     // [outputs]
};

// The inputs of the first hidden layer, before its ReLU.
struct alignas(64) HiddenSums {
  float values[kHiddenWidth];
};

class Mlp {
 public:
  // Layers: inputs -> kHiddenWidth -> ... -> 1, at least two. Errors name the layer; weights must be finite.
  static Result<Mlp> Create(std::vector<MlpLayer> layers);

  size_t inputs() const { return layers_.front().inputs; }

  void Start(HiddenSums* sums) const;  // the first layer's bias
  // Adds the share of inputs [first, first + columns.size()).
  void Accumulate(size_t first, std::span<const float> columns, HiddenSums* sums) const;
  float Finish(const HiddenSums& sums) const;

  // All of it for a full row of inputs.
  float Evaluate(std::span<const float> columns) const;

 private:
  using AccumulateFn = void (*)(const float* weights, const float* columns, size_t count, float* sums);
  using LayerFn = void (*)(const float* weights, const float* bias, const float* in, float* out);

  explicit Mlp(std::vector<MlpLayer> layers);

  std::vector<MlpLayer> layers_;
  AccumulateFn accumulate_;
  LayerFn hidden_;  // kHiddenWidth -> kHiddenWidth on ReLU(in)
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_MLP_H_
