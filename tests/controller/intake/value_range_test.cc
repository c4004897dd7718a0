#include "controller/intake/value_range.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace abacus {
namespace {

template <class T>
std::span<const std::byte> BytesOf(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

TEST(FindOutOfRange, NamesTheFirstOffender) {
  const std::vector<int64_t> values = {0, 99, -1, 100};
  const auto bad = FindOutOfRange(BytesOf(values), DType::kInt64, {0, 99});
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->index, 2u);
  EXPECT_EQ(bad->value, -1);
  EXPECT_FALSE(FindOutOfRange(BytesOf(values), DType::kInt64, {-1, 100}));
}

TEST(FindOutOfRange, CatchesTheExtremesOfEveryWidth) {
  const auto check = [](auto low, auto high, DType dtype) {
    const std::vector<decltype(low)> lowest = {5, low}, highest = {5, high};
    EXPECT_TRUE(FindOutOfRange(BytesOf(lowest), dtype, {1, 5})) << DTypeName(dtype);
    EXPECT_TRUE(FindOutOfRange(BytesOf(highest), dtype, {1, 5})) << DTypeName(dtype);
  };
  check(INT64_MIN, INT64_MAX, DType::kInt64);
  check(INT32_MIN, INT32_MAX, DType::kInt32);
  check(INT16_MIN, INT16_MAX, DType::kInt16);
  check(INT8_MIN, INT8_MAX, DType::kInt8);
  check(uint8_t{0}, uint8_t{255}, DType::kUInt8);
  check(uint8_t{0}, uint8_t{255}, DType::kBool);
}

TEST(FindOutOfRange, LetsFloatsAndNothingPass) {
  const std::vector<float> values = {1e30f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_FALSE(FindOutOfRange(BytesOf(values), DType::kFloat32, {0, 1}));
  EXPECT_FALSE(FindOutOfRange({}, DType::kInt64, {0, 1}));
}

}  // namespace
}  // namespace abacus
