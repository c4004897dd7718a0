// Mlp: the trained network, evaluated in the controller. Fully connected layers with ReLU between them, one output.
//
// The first layer is kept apart: its inputs are sums over the ranges of a group (features.h), so a caller adds up the
// shares of the ranges that it knows already and tries out many last ranges cheaply.
//
// Vectorised with AVX-512, AVX2 or plain code, chosen once when loaded. Results agree with the trainer's network to
// 1e-5 relative; of one instruction set they are the same to the last bit, however many samples are evaluated at once.
// No allocation after Create. Thread rule: const calls may run concurrently.
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

// A layer between others: kHiddenWidth -> kHiddenWidth; rows[input].
struct HiddenLayer {
  std::vector<HiddenSums> rows;
  HiddenSums bias;
};

class Mlp {
 public:
  enum class Instructions { kPlain, kAvx2, kAvx512 };
  // The widest that this machine has.
  static Instructions Widest();

  // Layers: inputs -> kHiddenWidth -> ... -> 1, at least two. Errors name the layer; weights must be finite.
  static Result<Mlp> Create(const std::vector<MlpLayer>& layers, Instructions instructions = Widest());

  size_t inputs() const { return first_.rows.size(); }

  void Start(HiddenSums* sums) const { *sums = first_.bias; }  // the first layer's bias
  // Adds the share of inputs [first, first + columns.size()).
  void Accumulate(size_t first, std::span<const float> columns, HiddenSums* sums) const;
  float Finish(const HiddenSums& sums) const;
  // Of many samples: out[i] = Finish(samples[i]), cheaper. Overwrites the samples.
  void Finish(std::span<HiddenSums> samples, std::span<float> out) const;

  // All of it for a full row of inputs.
  float Evaluate(std::span<const float> columns) const;

 private:
  struct Kernels {
    void (*accumulate)(const HiddenSums* rows, const float* columns, size_t count, HiddenSums* sums);
    void (*hidden)(const HiddenLayer& layer, HiddenSums* samples, size_t count);
    float (*output)(const HiddenSums& weights, float bias, const HiddenSums& sample);
  };
  static Kernels KernelsOf(Instructions instructions);

  Mlp(const std::vector<MlpLayer>& layers, Instructions instructions);

  HiddenLayer first_;  // as many rows as there are inputs
  std::vector<HiddenLayer> hidden_;
  HiddenSums output_weights_;
  float output_bias_;
  Kernels kernels_;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_MLP_H_
