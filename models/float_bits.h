// Values of the float types that C++ has no type for, and of those that it has, by their bits.
//
// A declared bound such as 0.1 means the nearest value of the tensor's type: what a client gets by converting it.
//
// Thread rule: pure functions.
#ifndef ABACUS_MODELS_FLOAT_BITS_H_
#define ABACUS_MODELS_FLOAT_BITS_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/types.h"

namespace abacus {

// An IEEE-like format of 16 bits.
struct HalfFormat {
  int mantissa_bits;
  int min_exponent;  // of the smallest normal number
  double highest;    // finite value
};
inline constexpr HalfFormat kFloat16Format = {10, -14, 65504.0};
inline constexpr HalfFormat kBFloat16Format = {7, -126, 0x1.fep127};

inline constexpr const HalfFormat& HalfFormatOf(DType dtype) {
  return dtype == DType::kBFloat16 ? kBFloat16Format : kFloat16Format;
}

// The bits of the finite value of a float type that is nearest to `value`, which is no NaN, in the low bits; zero for
// either zero.
inline uint64_t NearestFloat(double value, DType dtype) {
  if (value == 0) return 0;
  if (dtype == DType::kFloat64) return std::bit_cast<uint64_t>(value);
  if (dtype == DType::kFloat32) {
    constexpr double kHighest = std::numeric_limits<float>::max();
    return std::bit_cast<uint32_t>(static_cast<float>(std::clamp(value, -kHighest, kHighest)));
  }
  const HalfFormat& format = HalfFormatOf(dtype);
  const double magnitude = std::min(std::abs(value), format.highest);
  const int exponent = std::max(std::ilogb(magnitude), format.min_exponent);
  // With the leading one, which carries into the exponent; without it for numbers below the smallest normal one.
  const auto mantissa = static_cast<uint64_t>(std::nearbyint(std::ldexp(magnitude, format.mantissa_bits - exponent)));
  const auto biased = static_cast<uint64_t>(exponent - format.min_exponent) << format.mantissa_bits;
  return (value < 0 ? 0x8000u : 0u) + biased + mantissa;
}

// The value of the low bits.
inline double FloatOf(uint64_t bits, DType dtype) {
  if (dtype == DType::kFloat64) return std::bit_cast<double>(bits);
  if (dtype == DType::kFloat32) return std::bit_cast<float>(static_cast<uint32_t>(bits));
  const HalfFormat& format = HalfFormatOf(dtype);
  const auto magnitude = static_cast<int>(bits & 0x7fff);
  const int one = 1 << format.mantissa_bits;
  const int exponent = magnitude >> format.mantissa_bits;
  const int mantissa = magnitude & (one - 1);
  double value = 0;
  if (exponent == 0x7fff >> format.mantissa_bits) {
    value = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, format.min_exponent - format.mantissa_bits);
  } else {
    value = std::ldexp(one + mantissa, exponent - 1 + format.min_exponent - format.mantissa_bits);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

}  // namespace abacus

#endif  // ABACUS_MODELS_FLOAT_BITS_H_
