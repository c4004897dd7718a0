#include "worker/torch/load_check.h"

#include <ATen/TensorOperators.h>
#include <c10/util/StringUtil.h>

#include <limits>
#include <utility>

#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

constexpr uint64_t kScaleSeed = 301;

}  // namespace

Status LoadCheck::Record(const RunFn& plain, bool usual_only, const std::function<void(std::string_view)>& warn) {
  std::vector<const BucketPlan*> plans = {&plans_.front()};
  if (plans_.size() > 1) plans.push_back(&plans_.back());
  const std::string_view first_scale = ScaleName(spec_, SampleScale::kNormal);
  for (const BucketPlan* plan : plans) {
    Result<std::vector<at::Tensor>> outputs = plain(plan->sample);
    if (!outputs) return outputs.error().WithContext("at " + plan->label);
    ABACUS_RETURN_IF_ERROR(CheckOutputs(*plan, *outputs));
    for (size_t i = 0; i < outputs->size(); ++i) {
      if (!AllFinite((*outputs)[i])) {
        warn(c10::str("output \"", plan->outputs[i].name, "\" of the plain module is not finite at ", plan->label,
                      ", inputs from ", first_scale));
      }
    }
    cases_.push_back({plan, Kind::kNumbers, c10::str(plan->label, ", inputs from ", first_scale), plan->sample,
                      std::move(*outputs)});
  }
  if (usual_only) return Status::Ok();
  for (const SampleScale scale : ScalesOf(spec_)) {
    if (scale != SampleScale::kNormal) RecordScale(plain, scale);
  }
  RecordSpecial(plain, Kind::kNan);
  RecordSpecial(plain, Kind::kInfinity);
  return Status::Ok();
}

void LoadCheck::RecordScale(const RunFn& plain, SampleScale scale) {
  const BucketPlan& plan = plans_.front();
  std::vector<at::Tensor> inputs = MakeSampleInputs(spec_, plan.bucket, kScaleSeed, scale);
  Result<std::vector<at::Tensor>> outputs = plain(inputs);
  if (!outputs || !CheckOutputs(plan, *outputs).ok()) return;
  for (at::Tensor& output : *outputs) {
    if (!AllFinite(output)) output = at::Tensor();
  }
  cases_.push_back({&plan, Kind::kNumbers, c10::str(plan.label, ", inputs from ", ScaleName(spec_, scale)),
                    std::move(inputs), std::move(*outputs)});
}

void LoadCheck::RecordSpecial(const RunFn& plain, Kind kind) {
  const BucketPlan& plan = plans_.front();
  const bool nan = kind == Kind::kNan;
  const double value = nan ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  std::vector<at::Tensor> inputs = WithSpecialValue(spec_, plan.sample, value);
  if (inputs.empty()) return;
  Result<std::vector<at::Tensor>> outputs = plain(inputs);
  if (!outputs || !CheckOutputs(plan, *outputs).ok()) return;
  cases_.push_back({&plan, kind, c10::str(plan.label, nan ? ", with NaN in the inputs" : ", with Inf in the inputs"),
                    std::move(inputs), std::move(*outputs)});
}

Status LoadCheck::Compare(const RunFn& run) const {
  for (const Case& recorded : cases_) ABACUS_RETURN_IF_ERROR(CompareCase(recorded, run));
  return Status::Ok();
}

Status LoadCheck::CompareCase(const Case& recorded, const RunFn& run) const {
  const Result<std::vector<at::Tensor>> outputs = run(recorded.inputs);
  if (!outputs) return outputs.error().WithContext("at " + recorded.label);
  ABACUS_RETURN_IF_ERROR(CheckOutputs(*recorded.plan, *outputs));
  for (size_t i = 0; i < outputs->size(); ++i) {
    const at::Tensor& expected = recorded.outputs[i];
    if (!expected.defined()) continue;
    const std::string where = c10::str("output \"", recorded.plan->outputs[i].name, "\" at ", recorded.label);
    const Result<double> difference =
        recorded.kind == Kind::kNumbers
            ? CompareOutput(where, expected, (*outputs)[i], spec_.tolerance)
            : CompareSpecial(where, expected, (*outputs)[i], recorded.kind == Kind::kNan, spec_.tolerance);
    if (!difference) return difference.error();
  }
  return Status::Ok();
}

std::vector<at::Tensor> WithSpecialValue(const ModelSpec& spec, const std::vector<at::Tensor>& inputs, double value) {
  std::vector<at::Tensor> special;
  bool any = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    special.push_back(inputs[i].clone());
    if (InfoOf(spec.inputs[i].dtype).integer || spec.inputs[i].float_range || inputs[i].numel() == 0) continue;
    special.back().view(-1)[inputs[i].numel() / 2] = value;
    any = true;
  }
  return any ? special : std::vector<at::Tensor>();
}

}  // namespace abacus
