#include "worker/torch/bucket_plan.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/util/StringUtil.h>

#include <array>

namespace abacus {
namespace {

constexpr int64_t kDefaultHigh = 7;  // upper end of samples for integer inputs without a declared range

at::ScalarType ScalarTypeOf(DType dtype) {
  static constexpr std::array<at::ScalarType, kDTypes.size()> kTypes = {
      at::kFloat, at::kHalf,  at::kBFloat16, at::kDouble, at::kLong,
      at::kInt,   at::kShort, at::kChar,     at::kByte,   at::kBool};
  return kTypes[static_cast<size_t>(dtype)];
}

TensorPlan PlanTensor(const TensorSpec& tensor, const Bucket& bucket) {
  const Shape shape = ShapeAt(tensor, bucket.batch, bucket.sequence);
  TensorPlan plan;
  plan.name = tensor.name;
  plan.dtype = ScalarTypeOf(tensor.dtype);
  plan.sizes.assign(shape.dims().begin(), shape.dims().end());
  plan.bytes = shape.Elements().value_or(0) * DTypeBytes(tensor.dtype);
  return plan;
}

at::Tensor MakeSample(const TensorSpec& spec, const TensorPlan& plan, at::Generator& generator) {
  if (!InfoOf(spec.dtype).integer) {
    return at::randn(plan.sizes, generator, at::TensorOptions(at::kFloat)).to(plan.dtype);
  }
  const IntRange range = spec.range.value_or(IntRange{0, spec.dtype == DType::kBool ? 1 : kDefaultHigh});
  at::Tensor sample = at::randint(range.low, range.high + 1, plan.sizes, generator, at::TensorOptions(at::kLong));
  if (range.low == 0 && range.high == 1 && sample.dim() >= 2 && sample.numel() > 0) sample.select(-1, 0).fill_(1);
  return sample.to(plan.dtype);
}

}  // namespace

BucketPlan PlanBucket(const ModelSpec& spec, size_t bucket_index) {
  const Bucket bucket = spec.bucket(bucket_index);
  BucketPlan plan;
  plan.bucket = bucket;
  plan.label = c10::str("batch ", bucket.batch);
  if (spec.has_sequence()) plan.label += c10::str(", sequence ", bucket.sequence);
  for (const TensorSpec& tensor : spec.inputs) plan.inputs.push_back(PlanTensor(tensor, bucket));
  for (const TensorSpec& tensor : spec.outputs) plan.outputs.push_back(PlanTensor(tensor, bucket));
  plan.sample = MakeSampleInputs(spec, bucket_index, bucket_index);
  return plan;
}

std::vector<at::Tensor> MakeSampleInputs(const ModelSpec& spec, size_t bucket_index, uint64_t seed) {
  const Bucket bucket = spec.bucket(bucket_index);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<at::Tensor> inputs;
  for (const TensorSpec& tensor : spec.inputs)
    inputs.push_back(MakeSample(tensor, PlanTensor(tensor, bucket), generator));
  return inputs;
}

}  // namespace abacus
