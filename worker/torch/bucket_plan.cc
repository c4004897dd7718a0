#include "worker/torch/bucket_plan.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <limits>

#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

constexpr int64_t kDefaultHigh = 7;  // upper end of samples for integer inputs without a declared range

constexpr std::array<std::string_view, 4> kScaleNames = {"N(0, 1)", "0..1", "pixels 0..255", "1000 N(0, 1)"};
constexpr std::string_view kDeclaredRange = "declared range";

bool IsFloat(const TensorSpec& tensor) { return !InfoOf(tensor.dtype).integer; }

bool EveryFloatHasARange(const ModelSpec& spec) {
  return std::ranges::all_of(spec.inputs,
                             [](const TensorSpec& input) { return !IsFloat(input) || input.float_range.has_value(); });
}

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

at::Tensor MakeFloats(const TensorSpec& spec, const TensorPlan& plan, SampleScale scale, at::Generator& generator) {
  const at::TensorOptions options(spec.dtype == DType::kFloat64 ? at::kDouble : at::kFloat);
  if (spec.float_range) {
    const auto [low, high] = *spec.float_range;
    // Clamped once more behind the conversion, which may round to outside. Weighted ends, because the width may
    // overflow.
    const at::Tensor unit = at::rand(plan.sizes, generator, at::TensorOptions(at::kDouble));
    return (unit * high + (1 - unit) * low).clamp(low, high).to(plan.dtype).clamp(low, high);
  }
  switch (scale) {
    case SampleScale::kNormal:
      break;
    case SampleScale::kUnit:
      return at::rand(plan.sizes, generator, options).to(plan.dtype);
    case SampleScale::kPixels:
      return at::randint(0, 256, plan.sizes, generator, at::TensorOptions(at::kLong)).to(plan.dtype);
    case SampleScale::kThousand:
      return (at::randn(plan.sizes, generator, options) * 1000).to(plan.dtype);
  }
  return at::randn(plan.sizes, generator, options).to(plan.dtype);
}

at::Tensor MakeIntegers(const TensorSpec& spec, const TensorPlan& plan, int64_t sequence, at::Generator& generator) {
  IntRange range = spec.range.value_or(IntRange{0, spec.dtype == DType::kBool ? 1 : kDefaultHigh});
  if (range.to_sequence) range.high = std::max(range.low, sequence);
  // The end is exclusive: the largest number of the widest range is never drawn.
  const int64_t end = range.high + (range.high < std::numeric_limits<int64_t>::max() ? 1 : 0);
  at::Tensor sample = at::randint(range.low, end, plan.sizes, generator, at::TensorOptions(at::kLong));
  if (range.low == 0 && range.high == 1 && !range.to_sequence && sample.dim() >= 2 && sample.numel() > 0) {
    if (sample.size(-1) > 1) sample.select(-1, -1).fill_(0);
    sample.select(-1, 0).fill_(1);
  }
  return sample.to(plan.dtype);
}

std::vector<at::Tensor> Trim(const std::vector<TensorSpec>& specs, const Bucket& query,
                             const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> trimmed;
  for (size_t i = 0; i < tensors.size(); ++i) {
    at::Tensor part = tensors[i];
    const Shape& dims = specs[i].dims;
    for (size_t d = 0; d < dims.rank(); ++d) {
      if (dims[d] == kBatchDim) part = part.narrow(static_cast<int64_t>(d), 0, query.batch);
      if (dims[d] == kSequenceDim) part = part.narrow(static_cast<int64_t>(d), 0, query.sequence);
    }
    trimmed.push_back(part.contiguous());
  }
  return trimmed;
}

}  // namespace

BucketPlan PlanBucket(const ModelSpec& spec, size_t bucket_index) {
  return PlanShape(spec, spec.bucket(bucket_index), bucket_index);
}

BucketPlan PlanShape(const ModelSpec& spec, const Bucket& shape, uint64_t seed) {
  BucketPlan plan;
  plan.bucket = shape;
  plan.label = c10::str("batch ", shape.batch);
  if (spec.has_sequence()) plan.label += c10::str(", sequence ", shape.sequence);
  for (const TensorSpec& tensor : spec.inputs) plan.inputs.push_back(PlanTensor(tensor, shape));
  for (const TensorSpec& tensor : spec.outputs) plan.outputs.push_back(PlanTensor(tensor, shape));
  plan.sample = MakeSampleInputs(spec, shape, seed);
  return plan;
}

std::vector<SampleScale> ScalesOf(const ModelSpec& spec) {
  if (EveryFloatHasARange(spec)) return {SampleScale::kNormal};
  return {SampleScale::kNormal, SampleScale::kUnit, SampleScale::kPixels, SampleScale::kThousand};
}

std::string_view ScaleName(const ModelSpec& spec, SampleScale scale) {
  return EveryFloatHasARange(spec) ? kDeclaredRange : kScaleNames[static_cast<size_t>(scale)];
}

std::vector<at::Tensor> MakeSampleInputs(const ModelSpec& spec, const Bucket& shape, uint64_t seed, SampleScale scale) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<at::Tensor> inputs;
  for (const TensorSpec& tensor : spec.inputs) {
    const TensorPlan plan = PlanTensor(tensor, shape);
    inputs.push_back(IsFloat(tensor) ? MakeFloats(tensor, plan, scale, generator)
                                     : MakeIntegers(tensor, plan, shape.sequence, generator));
  }
  return inputs;
}

std::vector<at::Tensor> MakeSampleInputs(const ModelSpec& spec, size_t bucket_index, uint64_t seed, SampleScale scale) {
  return MakeSampleInputs(spec, spec.bucket(bucket_index), seed, scale);
}

std::vector<at::Tensor> PadInputs(const ModelSpec& spec, const Bucket& bucket, const Bucket& query,
                                  const std::vector<at::Tensor>& inputs) {
  std::vector<const std::byte*> memory;
  for (const at::Tensor& input : inputs) memory.push_back(static_cast<const std::byte*>(input.const_data_ptr()));
  const QueryTensors job = {static_cast<uint32_t>(query.batch), static_cast<uint32_t>(query.sequence), memory, {}};
  std::vector<at::Tensor> padded;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorPlan plan = PlanTensor(spec.inputs[i], bucket);
    const at::Tensor& tensor = padded.emplace_back(at::empty(plan.sizes, at::TensorOptions(plan.dtype)));
    GatherInput({static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()}, spec, bucket, i, {&job, 1});
  }
  return padded;
}

std::vector<at::Tensor> TrimInputs(const ModelSpec& spec, const Bucket& query, const std::vector<at::Tensor>& inputs) {
  return Trim(spec.inputs, query, inputs);
}

std::vector<at::Tensor> TrimOutputs(const ModelSpec& spec, const Bucket& query,
                                    const std::vector<at::Tensor>& outputs) {
  return Trim(spec.outputs, query, outputs);
}

}  // namespace abacus
