#include "worker/app/output_difference.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace abacus {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

at::Tensor Floats(const std::vector<float>& values) { return at::tensor(values); }

TEST(MaxDifference, IsTheLargestOfAllOutputs) {
  EXPECT_EQ(MaxDifference({Floats({1, 2}), Floats({3})}, {Floats({1, 2}), Floats({3})}), 0);
  EXPECT_EQ(MaxDifference({Floats({1, 2}), Floats({3})}, {Floats({1, 2.5}), Floats({3.25})}), 0.5);
}

TEST(MaxDifference, SeesDifferencesThatAreNoNumbers) {
  EXPECT_EQ(MaxDifference({Floats({kNan, 1})}, {Floats({1, 1})}), kInf);
  EXPECT_EQ(MaxDifference({Floats({0.0f})}, {Floats({-0.0f})}), kInf);
  const std::vector<int64_t> large = {int64_t{1} << 60}, next = {(int64_t{1} << 60) + 1};
  EXPECT_EQ(MaxDifference({at::tensor(large)}, {at::tensor(next)}), kInf);
}

TEST(MaxDifference, TakesOneNanForAnother) {
  EXPECT_EQ(MaxDifference({Floats({kNan, 1})}, {Floats({std::copysign(kNan, -1.0f), 1})}), 0);
}

TEST(AreFinite, LooksAtFloats) {
  EXPECT_TRUE(AreFinite({Floats({1, 2}), at::tensor(std::vector<int64_t>{1})}));
  EXPECT_FALSE(AreFinite({Floats({1}), Floats({kInf})}));
}

}  // namespace
}  // namespace abacus
