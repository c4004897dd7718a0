// BucketPlan: one bucket of a ModelSpec in LibTorch's terms, with sample inputs.
//
// Thread rule: pure functions; plain values.
#ifndef ABACUS_WORKER_TORCH_BUCKET_PLAN_H_
#define ABACUS_WORKER_TORCH_BUCKET_PLAN_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
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

// Inputs that the model accepts, in host memory, the same for the same seed: normal floats; integers uniform over their
// range ([0, 7] without one). Where the range is [0, 1] the first element of every row is 1: a mask that hides a whole
// row makes some models divide by zero.
std::vector<at::Tensor> MakeSampleInputs(const ModelSpec& spec, size_t bucket_index, uint64_t seed);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_BUCKET_PLAN_H_
