#include "worker/app/output_difference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isnan.h>

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

bool AreFinite(const std::vector<at::Tensor>& tensors) {
  return std::ranges::all_of(tensors,
                             [](const at::Tensor& tensor) { return !tensor.is_floating_point() || AllFinite(tensor); });
}

}  // namespace abacus
