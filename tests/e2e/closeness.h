// Whether an answer is another one, up to rounding.
#ifndef ABACUS_TESTS_E2E_CLOSENESS_H_
#define ABACUS_TESTS_E2E_CLOSENESS_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "client/tensor.h"

namespace abacus::test {

// What differs; empty: nothing. float32 may differ by `tolerance` of the largest finite magnitude of `expected`, with
// NaN and infinities at the same places. Any other type, and all where the tolerance is 0, is equal bit by bit.
inline std::string Difference(const Tensor& expected, const Tensor& got, double tolerance) {
  if (got.name != expected.name || got.dtype != expected.dtype || got.shape != expected.shape ||
      got.bytes.size() != expected.bytes.size()) {
    return got.name + " " + got.shape.ToString() + " instead of " + expected.name + " " + expected.shape.ToString();
  }
  if (expected.bytes.empty() || std::memcmp(got.bytes.data(), expected.bytes.data(), got.bytes.size()) == 0) return "";
  if (tolerance == 0 || expected.dtype != DType::kFloat32) return got.name + ": other bytes";
  const std::vector<float> wanted = expected.ToVector<float>(), had = got.ToVector<float>();
  float largest = 0;
  for (const float value : wanted) largest = std::isfinite(value) ? std::max(largest, std::abs(value)) : largest;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool same = std::isnan(wanted[i])   ? std::isnan(had[i])
                      : std::isinf(wanted[i]) ? had[i] == wanted[i]
                                              : std::abs(had[i] - wanted[i]) <= tolerance * largest;
    if (!same) {
      return got.name + "[" + std::to_string(i) + "]: " + std::to_string(had[i]) + " instead of " +
             std::to_string(wanted[i]) + ", with values up to " + std::to_string(largest);
    }
  }
  return "";
}

}  // namespace abacus::test

#endif  // ABACUS_TESTS_E2E_CLOSENESS_H_
