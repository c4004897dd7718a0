#include "predictor/mlp.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace abacus {
namespace {

constexpr size_t kMaxInputs = 4096;

// Written so that the compiler keeps a row of sums in vector registers; each instruction set gets its own copy.
[[gnu::always_inline]] inline void AccumulateRows(const float* __restrict weights, const float* __restrict columns,
                                                  size_t count, float* __restrict sums) {
  float row[kHiddenWidth];
  for (size_t j = 0; j < kHiddenWidth; ++j) row[j] = sums[j];
  for (size_t i = 0; i < count; ++i) {
    const float x = columns[i];
    const float* __restrict w = weights + i * kHiddenWidth;
    for (size_t j = 0; j < kHiddenWidth; ++j) row[j] += w[j] * x;
  }
  for (size_t j = 0; j < kHiddenWidth; ++j) sums[j] = row[j];
}

[[gnu::always_inline]] inline void HiddenRows(const float* __restrict weights, const float* __restrict bias,
                                              const float* __restrict in, float* __restrict out) {
  float relu[kHiddenWidth];
  for (size_t i = 0; i < kHiddenWidth; ++i) relu[i] = in[i] > 0 ? in[i] : 0;
  for (size_t j = 0; j < kHiddenWidth; ++j) out[j] = bias[j];
  AccumulateRows(weights, relu, kHiddenWidth, out);
}

void AccumulatePlain(const float* weights, const float* columns, size_t count, float* sums) {
  AccumulateRows(weights, columns, count, sums);
}
void HiddenPlain(const float* weights, const float* bias, const float* in, float* out) {
  HiddenRows(weights, bias, in, out);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void AccumulateAvx2(const float* weights, const float* columns, size_t count,
                                                        float* sums) {
  AccumulateRows(weights, columns, count, sums);
}
__attribute__((target("avx2,fma"))) void HiddenAvx2(const float* weights, const float* bias, const float* in,
                                                    float* out) {
  HiddenRows(weights, bias, in, out);
}
// Whole 512-bit vectors, which compilers avoid on their own.
#if defined(__clang__)
#define ABACUS_AVX512 __attribute__((target("avx512f,avx512vl,fma"), min_vector_width(512)))
#else
#define ABACUS_AVX512 __attribute__((target("avx512f,avx512vl,fma,prefer-vector-width=512")))
#endif
ABACUS_AVX512 void AccumulateAvx512(const float* weights, const float* columns, size_t count, float* sums) {
  AccumulateRows(weights, columns, count, sums);
}
ABACUS_AVX512 void HiddenAvx512(const float* weights, const float* bias, const float* in, float* out) {
  HiddenRows(weights, bias, in, out);
}
#undef ABACUS_AVX512
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

}  // namespace

Result<Mlp> Mlp::Create(std::vector<MlpLayer> layers) {
  ABACUS_RETURN_IF_ERROR(CheckLayers(layers));
  return Mlp(std::move(layers));
}

Mlp::Mlp(std::vector<MlpLayer> layers)
    : layers_(std::move(layers)), accumulate_(AccumulatePlain), hidden_(HiddenPlain) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
    accumulate_ = AccumulateAvx512;
    hidden_ = HiddenAvx512;
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    accumulate_ = AccumulateAvx2;
    hidden_ = HiddenAvx2;
  }
#endif
}

void Mlp::Start(HiddenSums* sums) const {
  std::copy(layers_.front().bias.begin(), layers_.front().bias.end(), sums->values);
}

void Mlp::Accumulate(size_t first, std::span<const float> columns, HiddenSums* sums) const {
  accumulate_(layers_.front().weights.data() + first * kHiddenWidth, columns.data(), columns.size(), sums->values);
}

float Mlp::Finish(const HiddenSums& sums) const {
  HiddenSums a = sums, b;
  for (size_t i = 1; i + 1 < layers_.size(); ++i) {
    hidden_(layers_[i].weights.data(), layers_[i].bias.data(), a.values, b.values);
    std::swap(a, b);
  }
  const MlpLayer& last = layers_.back();
  float y = last.bias[0];
  for (size_t i = 0; i < kHiddenWidth; ++i) y += last.weights[i] * std::max(a.values[i], 0.0f);
  return y;
}

float Mlp::Evaluate(std::span<const float> columns) const {
  HiddenSums sums;
  Start(&sums);
  Accumulate(0, columns, &sums);
  return Finish(sums);
}

}  // namespace abacus
