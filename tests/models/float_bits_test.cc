#include "models/float_bits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace abacus {
namespace {

TEST(FloatBits, EveryFiniteValueOf16BitsIsItsOwnNearest) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
      const double value = FloatOf(bits, dtype);
      if (!std::isfinite(value) || value == 0) continue;
      ASSERT_EQ(NearestFloat(value, dtype), bits) << DTypeName(dtype);
    }
  }
}

TEST(FloatBits, HalvesRoundToTheNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = FloatOf(bits, DType::kFloat16), high = FloatOf(bits + 1, DType::kFloat16);
    ASSERT_LT(low, high);
    ASSERT_EQ(NearestFloat(low + 0.49 * (high - low), DType::kFloat16), bits);
    ASSERT_EQ(NearestFloat(low + 0.51 * (high - low), DType::kFloat16), bits + 1);
    ASSERT_EQ(NearestFloat((low + high) / 2, DType::kFloat16), bits + (bits & 1));
  }
}

TEST(FloatBits, KnowsValuesOfEveryType) {
  EXPECT_EQ(FloatOf(0x3c00, DType::kFloat16), 1);
  EXPECT_EQ(FloatOf(0x0001, DType::kFloat16), std::ldexp(1, -24));
  EXPECT_EQ(FloatOf(0x7bff, DType::kFloat16), 65504);
  EXPECT_EQ(FloatOf(0xbf80, DType::kBFloat16), -1);
  EXPECT_EQ(FloatOf(0x3f800000, DType::kFloat32), 1);
  EXPECT_EQ(FloatOf(0x3ff0000000000000, DType::kFloat64), 1);
  EXPECT_TRUE(std::isnan(FloatOf(0x7e00, DType::kFloat16)));
  EXPECT_EQ(FloatOf(0xff80, DType::kBFloat16), -std::numeric_limits<double>::infinity());
}

TEST(FloatBits, WhatIsTooLargeIsTheLargestFiniteValue) {
  EXPECT_EQ(NearestFloat(1e9, DType::kFloat16), 0x7bffu);
  EXPECT_EQ(NearestFloat(-1e9, DType::kFloat16), 0xfbffu);
  EXPECT_EQ(NearestFloat(1e300, DType::kBFloat16), 0x7f7fu);
  EXPECT_EQ(NearestFloat(-1e300, DType::kFloat32), 0xff7fffffu);
}

TEST(FloatBits, ZeroHasNoSign) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    EXPECT_EQ(NearestFloat(-0.0, dtype), 0u);
  }
}

}  // namespace
}  // namespace abacus
