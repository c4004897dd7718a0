#include "worker/torch/torch_tensors.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Formatting.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

std::string SizesText(at::IntArrayRef sizes) { return c10::str("[", c10::Join(", ", sizes), "]"); }

}  // namespace

std::vector<at::Tensor> InputTensors(const ModelSpec& spec, const BucketPlan& plan, JobTensors job) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(plan.inputs.size());
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const at::TensorOptions options(plan.inputs[i].dtype);
    if (job.size() == 1 && Fills(spec.inputs[i], plan.bucket, job)) {
      auto* data = const_cast<std::byte*>(job[0].inputs[i]);  // from_blob takes no const; nothing writes through it
      tensors.push_back(at::from_blob(data, plan.inputs[i].sizes, options));
      continue;
    }
    const at::Tensor& batch = tensors.emplace_back(at::empty(plan.inputs[i].sizes, options));
    GatherInput({static_cast<std::byte*>(batch.data_ptr()), batch.nbytes()}, spec, plan.bucket, i, job);
  }
  return tensors;
}

Result<std::vector<at::Tensor>> FlattenOutputs(const c10::IValue& returned) {
  std::vector<at::Tensor> tensors;
  const auto add = [&tensors](const c10::IValue& value) {
    if (!value.isTensor()) return false;
    const at::Tensor& tensor = value.toTensor();
    tensors.push_back(tensor.is_mkldnn() ? tensor.to_dense() : tensor);
    return true;
  };
  bool ok = true;
  if (returned.isTuple()) {
    for (const c10::IValue& element : returned.toTupleRef().elements()) ok = ok && add(element);
  } else if (returned.isTensorList()) {
    for (const at::Tensor& element : returned.toTensorVector()) ok = ok && add(element);
  } else {
    ok = add(returned);
  }
  if (!ok) {
    return Error(StatusCode::kInvalidArgument, c10::str("forward() returns ", returned.tagKind(),
                                                        "; it must return a tensor, or a flat tuple or list of "
                                                        "tensors"));
  }
  return tensors;
}

Status CheckOutputs(const BucketPlan& plan, std::span<const at::Tensor> outputs) {
  if (outputs.size() != plan.outputs.size()) {
    return {StatusCode::kInvalidArgument,
            c10::str("the model returns ", outputs.size(), " outputs, its TOML declares ", plan.outputs.size())};
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorPlan& expected = plan.outputs[i];
    if (outputs[i].scalar_type() != expected.dtype || outputs[i].sizes() != at::IntArrayRef(expected.sizes)) {
      return {StatusCode::kInvalidArgument,
              c10::str("output \"", expected.name, "\" at ", plan.label, " is ", outputs[i].scalar_type(), " ",
                       SizesText(outputs[i].sizes()), ", its TOML declares ", expected.dtype, " ",
                       SizesText(expected.sizes))};
    }
  }
  return Status::Ok();
}

void WriteOutputs(const ModelSpec& spec, const BucketPlan& plan, std::span<const at::Tensor> outputs, JobTensors job) {
  if (job.empty()) return;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (job.size() == 1 && Fills(spec.outputs[i], plan.bucket, job)) {
      at::from_blob(job[0].outputs[i], plan.outputs[i].sizes, at::TensorOptions(plan.outputs[i].dtype))
          .copy_(outputs[i]);
      continue;
    }
    const at::Tensor batch = outputs[i].contiguous();
    ScatterOutput(static_cast<const std::byte*>(batch.const_data_ptr()), spec, plan.bucket, i, job);
  }
}

Result<double> CompareOutputs(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                              const std::vector<at::Tensor>& actual, double tolerance) {
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const at::Tensor b = expected[i].to(at::kCPU, at::kDouble);
    const at::Tensor a = actual[i].to(at::kCPU, at::kDouble);
    const at::Tensor finite = at::isfinite(b);
    const std::string where = c10::str("output \"", plan.outputs[i].name, "\" at ", plan.label);
    if (!at::isfinite(a).logical_or(finite.logical_not()).all().item<bool>()) {
      return Error(StatusCode::kInvalidArgument, where + " is not finite where the reference is");
    }
    const at::Tensor b_finite = b.masked_select(finite);
    if (b_finite.numel() == 0) continue;
    const double scale = b_finite.abs().max().item<double>();
    const double distance = (a.masked_select(finite) - b_finite).abs().max().item<double>();
    const double relative = distance == 0 ? 0 : distance / std::max(scale, std::numeric_limits<double>::min());
    if (relative > tolerance) {
      return Error(StatusCode::kInvalidArgument, c10::str(where, " differs from the reference by ", relative,
                                                          " of its largest value; the tolerance is ", tolerance));
    }
    largest = std::max(largest, relative);
  }
  return largest;
}

std::string ErrorText(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  // An error inside TorchScript comes after a listing of the code that led to it.
  constexpr std::string_view kReason = "RuntimeError: ";
  if (const size_t reason = text.rfind(kReason); reason != std::string::npos) text.erase(0, reason + kReason.size());
  constexpr size_t kMaxBytes = 300;
  if (text.size() > kMaxBytes) text.replace(kMaxBytes, std::string::npos, "...");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace abacus
