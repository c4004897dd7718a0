#include "controller/intake/value_range.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace abacus {
namespace {

template <class T>
std::span<const std::byte> BytesOf(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

TEST(FindOutOfRange, NamesTheFirstOffender) {
  const std::vector<int64_t> values = {0, 99, -1, 100};
  const auto bad = FindOutOfRange(BytesOf(values), DType::kInt64, IntRange{0, 99});
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->index, 2u);
  EXPECT_EQ(bad->value, "-1");
  EXPECT_FALSE(FindOutOfRange(BytesOf(values), DType::kInt64, IntRange{-1, 100}));
}

TEST(FindOutOfRange, CatchesTheExtremesOfEveryWidth) {
  const auto check = [](auto low, auto high, DType dtype) {
    const std::vector<decltype(low)> lowest = {5, low}, highest = {5, high};
    EXPECT_TRUE(FindOutOfRange(BytesOf(lowest), dtype, IntRange{1, 5})) << DTypeName(dtype);
    EXPECT_TRUE(FindOutOfRange(BytesOf(highest), dtype, IntRange{1, 5})) << DTypeName(dtype);
  };
  check(INT64_MIN, INT64_MAX, DType::kInt64);
  check(INT32_MIN, INT32_MAX, DType::kInt32);
  check(INT16_MIN, INT16_MAX, DType::kInt16);
  check(INT8_MIN, INT8_MAX, DType::kInt8);
  check(uint8_t{0}, uint8_t{255}, DType::kUInt8);
  check(uint8_t{0}, uint8_t{255}, DType::kBool);
}

// Blocks are looked at as a whole: the first offender must be found wherever it lies in one, or behind the last.
TEST(FindOutOfRange, FindsTheFirstOffenderWhereverItLies) {
  for (const size_t at : {0, 1, 1023, 1024, 1025, 2047, 2500, 2999}) {
    std::vector<int32_t> integers(3000, 7);
    std::vector<float> floats(3000, 0.5f);
    integers[at] = 100;
    floats[at] = 2.0f;
    integers[2999] = 100;
    floats[2999] = 2.0f;
    const auto integer = FindOutOfRange(BytesOf(integers), DType::kInt32, IntRange{0, 9});
    ASSERT_TRUE(integer.has_value()) << at;
    EXPECT_EQ(integer->index, at);
    const auto number = FindOutOfRange(BytesOf(floats), DType::kFloat32, FloatRange{0, 1});
    ASSERT_TRUE(number.has_value()) << at;
    EXPECT_EQ(number->index, at);
    EXPECT_EQ(number->value, "2");
  }
}

TEST(FindOutOfRange, NoIntegerIsInsideAnEmptyRange) {
  const std::vector<int64_t> values = {2};
  EXPECT_TRUE(FindOutOfRange(BytesOf(values), DType::kInt64, IntRange{3, 2}));
}

TEST(FindOutOfRange, ReadsTensorsAtAnyAlignment) {
  std::vector<std::byte> bytes(1 + 4 * sizeof(double));
  const double values[] = {1, 2, 3, 4};
  std::memcpy(bytes.data() + 1, values, sizeof(values));
  const auto bad = FindOutOfRange(std::span(bytes).subspan(1), DType::kFloat64, FloatRange{1, 3});
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->index, 3u);
}

// Both bounds, a value just beyond each, and what is no number, in bits of a float type.
template <class Bits>
struct FloatCase {
  DType dtype;
  Bits below, low, zero, minus_zero, high, above, inf, minus_inf, nan, minus_nan;
};
template <class Bits>
void ExpectRangeChecked(const FloatCase<Bits>& c) {
  const FloatRange range = {-1.5, 2.0};
  const auto outside = [&](Bits bits) {
    return FindOutOfRange(BytesOf(std::vector<Bits>{bits}), c.dtype, range).has_value();
  };
  for (const Bits bits : {c.low, c.zero, c.minus_zero, c.high}) EXPECT_FALSE(outside(bits)) << DTypeName(c.dtype);
  for (const Bits bits : {c.below, c.above, c.inf, c.minus_inf, c.nan, c.minus_nan}) {
    EXPECT_TRUE(outside(bits)) << DTypeName(c.dtype) << " " << bits;
  }
}

TEST(FindOutOfRange, KnowsEveryFloatType) {
  ExpectRangeChecked<uint16_t>(
      {DType::kFloat16, 0xbe01, 0xbe00, 0, 0x8000, 0x4000, 0x4001, 0x7c00, 0xfc00, 0x7e00, 0xfe00});
  ExpectRangeChecked<uint16_t>(
      {DType::kBFloat16, 0xbfc1, 0xbfc0, 0, 0x8000, 0x4000, 0x4001, 0x7f80, 0xff80, 0x7fc0, 0xffc0});
  ExpectRangeChecked<uint32_t>({DType::kFloat32, 0xbfc00001, 0xbfc00000, 0, 0x80000000, 0x40000000, 0x40000001,
                                0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000});
  ExpectRangeChecked<uint64_t>({DType::kFloat64, 0xbff8000000000001, 0xbff8000000000000, 0, 0x8000000000000000,
                                0x4000000000000000, 0x4000000000000001, 0x7ff0000000000000, 0xfff0000000000000,
                                0x7ff8000000000000, 0xfff8000000000000});
}

TEST(FindOutOfRange, BoundsCountAsTheNearestValueOfTheType) {
  // 0.1 is 0.100000001 as a float32: what a client gets by writing 0.1f must be inside both ways.
  EXPECT_FALSE(FindOutOfRange(BytesOf(std::vector<float>{0.1f, 0.3f}), DType::kFloat32, FloatRange{0.1, 0.3}));
  const std::vector<float> beyond = {std::nextafter(0.1f, 1.0f)};
  EXPECT_TRUE(FindOutOfRange(BytesOf(beyond), DType::kFloat32, FloatRange{0, 0.1}));
  // Beyond what the type can hold, infinities are outside all the same.
  EXPECT_TRUE(FindOutOfRange(BytesOf(std::vector<uint16_t>{0x7c00}), DType::kFloat16, FloatRange{0, 1e9}));
  EXPECT_FALSE(FindOutOfRange(BytesOf(std::vector<uint16_t>{0x7bff}), DType::kFloat16, FloatRange{0, 1e9}));
  EXPECT_TRUE(FindOutOfRange(BytesOf(std::vector<float>{HUGE_VALF}), DType::kFloat32, FloatRange{0, 1e300}));
}

TEST(FindOutOfRange, WritesValuesAsAPersonDoes) {
  const auto value = [](const auto& values, DType dtype) {
    const auto bad = FindOutOfRange(BytesOf(values), dtype, FloatRange{0, 0});
    return bad ? bad->value : "inside";
  };
  EXPECT_EQ(value(std::vector<float>{0.1f}, DType::kFloat32), "0.1");
  EXPECT_EQ(value(std::vector<double>{0.1}, DType::kFloat64), "0.1");
  EXPECT_EQ(value(std::vector<double>{1e-300}, DType::kFloat64), "1e-300");
  EXPECT_EQ(value(std::vector<uint16_t>{0x3e00}, DType::kFloat16), "1.5");
  EXPECT_EQ(value(std::vector<uint16_t>{0xc2f7}, DType::kBFloat16), "-123.5");
  EXPECT_EQ(value(std::vector<float>{-HUGE_VALF}, DType::kFloat32), "-inf");
}

TEST(FindOutOfRange, RangesOfTheOtherKindAndNothingPass) {
  const std::vector<float> values = {1e30f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_FALSE(FindOutOfRange(BytesOf(values), DType::kFloat32, IntRange{0, 1}));
  EXPECT_FALSE(FindOutOfRange(BytesOf(std::vector<int64_t>{5}), DType::kInt64, FloatRange{0, 1}));
  EXPECT_FALSE(FindOutOfRange({}, DType::kInt64, IntRange{0, 1}));
  EXPECT_FALSE(FindOutOfRange({}, DType::kFloat32, FloatRange{0, 1}));
}

}  // namespace
}  // namespace abacus
