#include "worker/torch/torch_tensors.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Formatting.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/isnan.h>
#include <c10/core/alignment.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>

#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

std::string SizesText(at::IntArrayRef sizes) { return c10::str("[", c10::Join(", ", sizes), "]"); }

bool HasProtocolType(at::ScalarType type) {
  static constexpr std::array<at::ScalarType, kDTypes.size()> kTypes = {
      at::kFloat, at::kHalf,  at::kBFloat16, at::kDouble, at::kLong,
      at::kInt,   at::kShort, at::kChar,     at::kByte,   at::kBool};
  return std::ranges::find(kTypes, type) != kTypes.end();
}

// Where LibTorch would have put it: how an operator adds up may depend on where its memory begins, and with that the
// last bits of an answer.
bool IsAligned(const std::byte* memory) { return reinterpret_cast<uintptr_t>(memory) % c10::gAlignment == 0; }

// The text from `begin` to the end of its line, without spaces around it.
std::string_view LineAt(std::string_view text, size_t begin) {
  std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  while (line.starts_with(' ')) line.remove_prefix(1);
  return line;
}

// "models.py(97): `lengths.cpu()`: " from TorchScript's listing of the code that led to an error: the source line of a
// traced module that is not LibTorch's own, and the statement marked as the one that failed. Empty when it has neither.
std::string FailedLine(std::string_view listing) {
  constexpr std::string_view kOriginal = "original code (most recent call last):\n";
  constexpr std::string_view kMark = "<--- HERE";
  std::string place;
  if (const size_t original = listing.find(kOriginal); original != std::string_view::npos) {
    for (size_t at = original + kOriginal.size() - 1; at < listing.size(); at = listing.find('\n', at + 1)) {
      const std::string_view line = LineAt(listing, at + 1);
      if (line.starts_with("File ") || line.find("/torch/") != std::string_view::npos) continue;
      if (const size_t end = line.find("): "); end != std::string_view::npos) {
        place = c10::str(line.substr(0, end + 1), ": ");
        break;
      }
    }
  }
  if (const size_t mark = listing.rfind(kMark); mark != std::string_view::npos) {
    const size_t marked = listing.rfind('\n', mark);  // ends the statement's line
    const size_t before = marked == std::string_view::npos ? marked : listing.rfind('\n', marked - 1);
    if (before != std::string_view::npos) place += c10::str("`", LineAt(listing, before + 1), "`: ");
  }
  return place;
}

// The largest of what `compare` says of each output, or its first error.
template <class Compare>
Result<double> LargestOf(const BucketPlan& plan, const std::vector<at::Tensor>& expected, const Compare& compare) {
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const Result<double> difference = compare(c10::str("output \"", plan.outputs[i].name, "\" at ", plan.label), i);
    if (!difference) return difference;
    largest = std::max(largest, *difference);
  }
  return largest;
}

}  // namespace

std::vector<at::Tensor> InputTensors(const ModelSpec& spec, const BucketPlan& plan, JobTensors job) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(plan.inputs.size());
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const at::TensorOptions options(plan.inputs[i].dtype);
    if (job.size() == 1 && Fills(spec.inputs[i], plan.bucket, job) && IsAligned(job[0].inputs[i])) {
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
  // Nothing, or why the value is no output.
  const auto add = [&tensors](const c10::IValue& value) -> std::string {
    if (!value.isTensor()) return value.isNone() ? "None" : value.tagKind();
    const at::Tensor& tensor = value.toTensor();
    if (!tensor.defined()) return "None";
    if (tensor.layout() != at::kStrided && !tensor.is_mkldnn()) return c10::str("a tensor of layout ", tensor.layout());
    tensors.push_back(tensor.is_mkldnn() ? tensor.to_dense() : tensor);
    return {};
  };
  const auto refuse = [](const std::string& what) {
    return Error(StatusCode::kInvalidArgument, c10::str("forward() returns ", what,
                                                        "; it must return a tensor, or a flat tuple or list of "
                                                        "tensors"));
  };
  std::vector<c10::IValue> elements;
  if (returned.isTuple()) {
    elements = returned.toTupleRef().elements().vec();
  } else if (returned.isList()) {
    elements = returned.toListRef().vec();
  } else if (const std::string what = add(returned); !what.empty()) {
    return refuse(what);
  }
  for (size_t i = 0; i < elements.size(); ++i) {
    if (const std::string what = add(elements[i]); !what.empty()) {
      return refuse(c10::str("a ", returned.tagKind(), " with ", what, " at position ", i));
    }
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
    if (!HasProtocolType(outputs[i].scalar_type())) {
      return {StatusCode::kInvalidArgument,
              c10::str("output \"", expected.name, "\" is ", outputs[i].scalar_type(),
                       ", which the protocol has no type for; convert it in forward() (a complex tensor with "
                       "torch.view_as_real)")};
    }
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

std::vector<at::Tensor> CopiesOn(at::Device device, std::span<const at::Tensor> tensors) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) {
    copies.push_back(tensor.to(device, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
  }
  return copies;
}

bool AllFinite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kCPU).contiguous();
  const at::Tensor y = b.to(at::kCPU).contiguous();
  return x.nbytes() == y.nbytes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

Result<double> CompareOutput(const std::string& where, const at::Tensor& expected, const at::Tensor& actual,
                             double tolerance) {
  const auto refuse = [&where](const std::string& what) {
    return Error(StatusCode::kInvalidArgument, c10::str(where, " ", what));
  };
  if (at::isIntegralType(expected.scalar_type(), /*includeBool=*/true)) {
    // In their own type: a double holds integers up to 2^53 alone.
    const int64_t different = actual.to(at::kCPU).ne(expected.to(at::kCPU)).sum().item<int64_t>();
    if (different == 0) return 0.0;
    return refuse(c10::str("differs from the reference in ", different, " of its ", expected.numel(),
                           " integers, which must be equal"));
  }
  const at::Tensor b = expected.to(at::kCPU, at::kDouble);
  const at::Tensor a = actual.to(at::kCPU, at::kDouble);
  const at::Tensor finite = at::isfinite(b);
  if (!at::isfinite(a).logical_or(finite.logical_not()).all().item<bool>()) {
    return refuse("is not finite where the reference is");
  }
  if (at::isnan(b).logical_and(at::isnan(a).logical_not()).any().item<bool>()) {
    return refuse("lost NaN: it is a number where the reference is NaN");
  }
  if (at::isinf(b).logical_and(a.ne(b)).any().item<bool>()) {
    return refuse("lost an infinity that the reference has");
  }
  const at::Tensor b_finite = b.masked_select(finite);
  if (b_finite.numel() == 0) return 0.0;
  const double scale = b_finite.abs().max().item<double>();
  const double distance = (a.masked_select(finite) - b_finite).abs().max().item<double>();
  const double relative = distance == 0 ? 0 : distance / std::max(scale, std::numeric_limits<double>::min());
  if (relative <= tolerance) return relative;
  return refuse(
      c10::str("differs from the reference by ", relative, " of its largest value; the tolerance is ", tolerance));
}

Result<double> CompareSpecial(const std::string& where, const at::Tensor& expected, const at::Tensor& actual, bool nan,
                              double tolerance) {
  if (!expected.is_floating_point()) return 0.0;
  const at::Tensor b = expected.to(at::kCPU, at::kDouble);
  const at::Tensor a = actual.to(at::kCPU, at::kDouble);
  at::Tensor lost = at::isfinite(b).logical_not().logical_and(at::isfinite(a));
  if (nan) lost = lost.logical_or(at::isnan(b).logical_and(at::isnan(a).logical_not()));
  if (lost.any().item<bool>()) {
    return Error(StatusCode::kInvalidArgument,
                 c10::str(where, " lost ", nan ? "NaN" : "an infinity", ": it is a number where the reference is not"));
  }
  const at::Tensor both = at::isfinite(a).logical_and(at::isfinite(b));
  return CompareOutput(where, b.masked_select(both), a.masked_select(both), tolerance);
}

Result<double> CompareOutputs(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                              const std::vector<at::Tensor>& actual, double tolerance) {
  return LargestOf(plan, expected, [&](const std::string& where, size_t i) {
    return CompareOutput(where, expected[i], actual[i], tolerance);
  });
}

Result<double> CompareSpecials(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                               const std::vector<at::Tensor>& actual, bool nan, double tolerance) {
  return LargestOf(plan, expected, [&](const std::string& where, size_t i) {
    return CompareSpecial(where, expected[i], actual[i], nan, tolerance);
  });
}

std::string ErrorText(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  // An error inside TorchScript comes after a listing of the code that led to it.
  constexpr std::string_view kReason = "RuntimeError: ";
  std::string place;
  if (const size_t reason = text.rfind(kReason); reason != std::string::npos) {
    place = FailedLine(std::string_view(text).substr(0, reason));
    text.erase(0, reason + kReason.size());
  }
  constexpr size_t kMaxBytes = 300;
  if (text.size() > kMaxBytes) text.replace(kMaxBytes, std::string::npos, "...");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return place + text;
}

}  // namespace abacus
