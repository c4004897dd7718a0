// BucketPlan: one bucket of a ModelSpec in LibTorch's terms, and inputs to try a model with.
//
// Sample inputs are valid queries: integers lie in their declared ranges, and so do floats where a range is declared;
// other floats are drawn at one of several scales, because what goes wrong at 255 need not show at 1. The same seed
// gives the same inputs.
//
// Thread rule: pure functions; plain values.
#ifndef ABACUS_WORKER_TORCH_BUCKET_PLAN_H_
#define ABACUS_WORKER_TORCH_BUCKET_PLAN_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/model_spec.h"

namespace abacus {

struct TensorPlan {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> sizes;
  uint64_t bytes = 0;
};

// One bucket's tensors at bucket shape, in the order of the spec.
struct BucketPlan {
  Bucket bucket;
  std::string label;  // "batch 4, sequence 32", for messages
  std::vector<TensorPlan> inputs;
  std::vector<TensorPlan> outputs;
  std::vector<at::Tensor> sample;  // valid inputs in host memory
};

BucketPlan PlanBucket(const ModelSpec& spec, size_t bucket_index);
// The same for a shape that need not be a bucket's. The sample's seed is `seed`.
BucketPlan PlanShape(const ModelSpec& spec, const Bucket& shape, uint64_t seed);

// How float inputs without a declared range are drawn.
enum class SampleScale : uint8_t {
  kNormal,    // "N(0, 1)"
  kUnit,      // "0..1"
  kPixels,    // "pixels 0..255"
  kThousand,  // "1000 N(0, 1)"
};

// The scales that make a difference to the model, kNormal first; it alone where every float has a declared range.
std::vector<SampleScale> ScalesOf(const ModelSpec& spec);
// Its name in messages: "declared range" where every float input has one.
std::string_view ScaleName(const ModelSpec& spec, SampleScale scale);

// Inputs that the model accepts, in host memory. Integers are uniform over their range ([0, 7] without one; up to the
// length of the sequence where the range ends there). Where the range is [0, 1] the first element of every row is 1 and
// the last 0: a mask that hides a whole row, whichever value hides, makes some models divide by zero.
std::vector<at::Tensor> MakeSampleInputs(const ModelSpec& spec, const Bucket& shape, uint64_t seed,
                                         SampleScale scale = SampleScale::kNormal);
std::vector<at::Tensor> MakeSampleInputs(const ModelSpec& spec, size_t bucket_index, uint64_t seed,
                                         SampleScale scale = SampleScale::kNormal);

// What a job of one query puts into the tensors of `bucket`: the query's inputs, which have the shape `query`, and
// padding behind them.
std::vector<at::Tensor> PadInputs(const ModelSpec& spec, const Bucket& bucket, const Bucket& query,
                                  const std::vector<at::Tensor>& inputs);
// The part of a bucket's inputs that is, or of its outputs that answers, a query of shape `query`, which comes first.
std::vector<at::Tensor> TrimInputs(const ModelSpec& spec, const Bucket& query, const std::vector<at::Tensor>& inputs);
std::vector<at::Tensor> TrimOutputs(const ModelSpec& spec, const Bucket& query, const std::vector<at::Tensor>& outputs);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_BUCKET_PLAN_H_
