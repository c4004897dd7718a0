#include "predictor/mlp.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace abacus {
namespace {

constexpr size_t kMaxInputs = 4096;

namespace plain {
constexpr size_t kLanes = 4, kAccumulators = 8;
#define ABACUS_TARGET
#include "predictor/mlp_kernels.inc"
#undef ABACUS_TARGET
}  // namespace plain

#if defined(__x86_64__)
namespace avx2 {
constexpr size_t kLanes = 8, kAccumulators = 8;
#define ABACUS_TARGET __attribute__((target("avx2,fma")))
#include "predictor/mlp_kernels.inc"
#undef ABACUS_TARGET
}  // namespace avx2

namespace avx512 {
constexpr size_t kLanes = 16, kAccumulators = 16;
#define ABACUS_TARGET __attribute__((target("avx512f,avx512vl,fma")))
#include "predictor/mlp_kernels.inc"
#undef ABACUS_TARGET
}  // namespace avx512
#endif

Status CheckLayers(const std::vector<MlpLayer>& layers) {
  const auto bad = [](size_t i, const std::string& what) {
    return Status(StatusCode::kInvalidArgument, "layer " + std::to_string(i) + " of the network " + what);
  };
  if (layers.size() < 2 || layers.size() > kMaxLayers) {
    return {StatusCode::kInvalidArgument, "the network must have 2 to " + std::to_string(kMaxLayers) + " layers"};
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    const MlpLayer& layer = layers[i];
    const bool last = i + 1 == layers.size();
    if (i == 0 ? layer.inputs == 0 || layer.inputs > kMaxInputs : layer.inputs != kHiddenWidth) {
      return bad(i, "has " + std::to_string(layer.inputs) + " inputs");
    }
    if (layer.outputs != (last ? 1 : kHiddenWidth)) return bad(i, "has " + std::to_string(layer.outputs) + " outputs");
    if (layer.weights.size() != layer.inputs * layer.outputs || layer.bias.size() != layer.outputs) {
      return bad(i, "has the wrong number of weights");
    }
    const auto finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(layer.weights.begin(), layer.weights.end(), finite) ||
        !std::all_of(layer.bias.begin(), layer.bias.end(), finite)) {
      return bad(i, "has weights that are not finite");
    }
  }
  return Status::Ok();
}

// In rows that vectors do not straddle.
HiddenLayer Aligned(const MlpLayer& layer) {
  HiddenLayer aligned;
  aligned.rows.resize(layer.inputs);
  for (size_t i = 0; i < layer.inputs; ++i) {
    std::copy_n(layer.weights.data() + i * kHiddenWidth, kHiddenWidth, aligned.rows[i].values);
  }
  std::ranges::copy(layer.bias, aligned.bias.values);
  return aligned;
}

}  // namespace

Mlp::Instructions Mlp::Widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return Instructions::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::kAvx2;
#endif
  return Instructions::kPlain;
}

Mlp::Kernels Mlp::KernelsOf([[maybe_unused]] Instructions instructions) {
#if defined(__x86_64__)
  if (instructions == Instructions::kAvx512) return {avx512::Accumulate, avx512::HiddenOfAll, avx512::Output};
  if (instructions == Instructions::kAvx2) return {avx2::Accumulate, avx2::HiddenOfAll, avx2::Output};
#endif
  return {plain::Accumulate, plain::HiddenOfAll, plain::Output};
}

Result<Mlp> Mlp::Create(const std::vector<MlpLayer>& layers, Instructions instructions) {
  ABACUS_RETURN_IF_ERROR(CheckLayers(layers));
  return Mlp(layers, instructions);
}

Mlp::Mlp(const std::vector<MlpLayer>& layers, Instructions instructions)
    : first_(Aligned(layers.front())), output_bias_(layers.back().bias[0]), kernels_(KernelsOf(instructions)) {
  for (size_t i = 1; i + 1 < layers.size(); ++i) hidden_.push_back(Aligned(layers[i]));
  std::ranges::copy(layers.back().weights, output_weights_.values);
}

void Mlp::Accumulate(size_t first, std::span<const float> columns, HiddenSums* sums) const {
  kernels_.accumulate(first_.rows.data() + first, columns.data(), columns.size(), sums);
}

void Mlp::Finish(std::span<HiddenSums> samples, std::span<float> out) const {
  for (const HiddenLayer& layer : hidden_) kernels_.hidden(layer, samples.data(), samples.size());
  for (size_t i = 0; i < samples.size(); ++i) out[i] = kernels_.output(output_weights_, output_bias_, samples[i]);
}

float Mlp::Finish(const HiddenSums& sums) const {
  HiddenSums sample = sums;
  float y = 0;
  Finish({&sample, 1}, {&y, 1});
  return y;
}

float Mlp::Evaluate(std::span<const float> columns) const {
  HiddenSums sums;
  Start(&sums);
  Accumulate(0, columns, &sums);
  return Finish(sums);
}

}  // namespace abacus
