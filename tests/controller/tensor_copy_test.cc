#include "controller/tensor_copy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace abacus {
namespace {

template <class T>
std::byte* Bytes(std::vector<T>& v) {
  return reinterpret_cast<std::byte*>(v.data());
}

std::vector<int32_t> Iota(const Shape& shape) {
  std::vector<int32_t> v(*shape.Elements());
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int32_t>(i) + 1;
  return v;
}

// Element at index `at` (row-major) of a tensor of this shape.
int32_t At(const std::vector<int32_t>& v, const Shape& shape, const std::vector<int64_t>& at) {
  uint64_t flat = 0;
  for (size_t d = 0; d < shape.rank(); ++d)
    flat = flat * static_cast<uint64_t>(shape[d]) + static_cast<uint64_t>(at[d]);
  return v[flat];
}

// Every index of `shape`, in order.
std::vector<std::vector<int64_t>> Indices(const Shape& shape) {
  std::vector<std::vector<int64_t>> all = {{}};
  for (size_t d = 0; d < shape.rank(); ++d) {
    std::vector<std::vector<int64_t>> next;
    for (const auto& prefix : all) {
      for (int64_t i = 0; i < shape[d]; ++i) {
        next.push_back(prefix);
        next.back().push_back(i);
      }
    }
    all = next;
  }
  return all;
}

struct Case {
  Shape small, large;
};
const Case kCases[] = {
    {{3}, {3}},
    {{2, 3}, {4, 3}},  // batch grows
    {{2, 3}, {2, 5}},  // sequence grows
    {{1, 3}, {1, 5}},
    {{2, 3}, {4, 5}},        // both
    {{2, 3, 4}, {4, 5, 4}},  // a fixed dimension behind the sequence
    {{2, 6, 3}, {3, 6, 4}},  // a fixed dimension before it
    {{1, 2, 3, 2}, {2, 2, 5, 2}},
    {{1, 1}, {1, 1}},
};

TEST(CopyPadded, KeepsElementsAndFillsTheRest) {
  for (const Case& c : kCases) {
    std::vector<int32_t> src = Iota(c.small);
    std::vector<int32_t> dst(*c.large.Elements(), -1);
    CopyPadded(Bytes(dst), c.large, Bytes(src), c.small, DType::kInt32, 77);
    for (const auto& at : Indices(c.large)) {
      bool inside = true;
      for (size_t d = 0; d < at.size(); ++d) inside &= at[d] < c.small[d];
      EXPECT_EQ(At(dst, c.large, at), inside ? At(src, c.small, at) : 77) << c.small.ToString() << c.large.ToString();
    }
  }
}

TEST(CropInPlace, UndoesCopyPadded) {
  for (const Case& c : kCases) {
    std::vector<int32_t> src = Iota(c.small);
    std::vector<int32_t> large(*c.large.Elements(), -1);
    CopyPadded(Bytes(large), c.large, Bytes(src), c.small, DType::kInt32, 0);
    CropInPlace(Bytes(large), c.large, c.small, DType::kInt32);
    large.resize(src.size());
    EXPECT_EQ(large, src) << c.small.ToString() << c.large.ToString();
  }
}

TEST(CopyPadded, PadsFloatsWithZero) {
  std::vector<float> src = {1.5f}, dst(3, 9.f);
  CopyPadded(Bytes(dst), {3}, Bytes(src), {1}, DType::kFloat32, 0);
  EXPECT_EQ(dst, (std::vector<float>{1.5f, 0.f, 0.f}));
}

TEST(FindOutOfRange, NamesTheFirstOffender) {
  std::vector<int64_t> v = {0, 99, -1, 100};
  const std::span<const std::byte> data(Bytes(v), v.size() * sizeof(int64_t));
  const auto bad = FindOutOfRange(data, DType::kInt64, {0, 99});
  ASSERT_TRUE(bad.has_value());
  EXPECT_EQ(bad->index, 2u);
  EXPECT_EQ(bad->value, -1);
  EXPECT_FALSE(FindOutOfRange(data, DType::kInt64, {-1, 100}));
}

TEST(FindOutOfRange, CatchesTheExtremesOfEveryWidth) {
  const auto check = [](auto low, auto high, DType dtype) {
    std::vector<decltype(low)> v = {low, high};
    const std::span<const std::byte> data(reinterpret_cast<const std::byte*>(v.data()), sizeof(low) * 2);
    EXPECT_TRUE(FindOutOfRange(data, dtype, {0, 5})) << DTypeName(dtype);
  };
  check(INT64_MIN, INT64_MAX, DType::kInt64);
  check(INT32_MIN, INT32_MAX, DType::kInt32);
  check(INT16_MIN, INT16_MAX, DType::kInt16);
  check(INT8_MIN, INT8_MAX, DType::kInt8);
  check(uint8_t{0}, uint8_t{255}, DType::kUInt8);
}

}  // namespace
}  // namespace abacus
