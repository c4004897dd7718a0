#include "worker/app/output_difference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/where.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <ranges>

#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

bool SameBytes(const at::Tensor& a, const at::Tensor& b) {
  return std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

// With every NaN the same.
at::Tensor WithOneNan(const at::Tensor& tensor) {
  return tensor.masked_fill(at::isnan(tensor), std::numeric_limits<double>::quiet_NaN()).contiguous();
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  if (SameBytes(a, b)) return 0;
  if (a.is_floating_point() && SameBytes(WithOneNan(a), WithOneNan(b))) return 0;
  const double difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  return difference > 0 ? difference : std::numeric_limits<double>::infinity();
}

}  // namespace

double MaxDifference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, Difference(a[i], b[i]));
  return largest;
}

Result<double> CompareNonFinite(const BucketPlan& plan, const std::vector<at::Tensor>& plain,
                                const std::vector<at::Tensor>& served, double tolerance) {
  std::vector<at::Tensor> comparable;
  for (size_t i = 0; i < plain.size(); ++i) {
    const at::Tensor expected = plain[i].to(at::kCPU);
    if (!expected.is_floating_point()) {
      comparable.push_back(expected);
      continue;
    }
    const at::Tensor lost = at::isfinite(expected).logical_not().logical_and(at::isfinite(served[i]));
    if (lost.any().item<bool>()) {
      return Error(StatusCode::kInvalidArgument,
                   c10::str("output \"", plan.outputs[i].name, "\" at ", plan.label, " is a number in ",
                            lost.sum().item<int64_t>(), " places where the plain module answers NaN or an infinity"));
    }
    comparable.push_back(at::where(at::isfinite(served[i]), served[i], expected));
  }
  return CompareOutputs(plan, plain, comparable, tolerance);
}

bool AreFinite(const std::vector<at::Tensor>& tensors) {
  return std::ranges::all_of(tensors,
                             [](const at::Tensor& tensor) { return !tensor.is_floating_point() || AllFinite(tensor); });
}

}  // namespace abacus
