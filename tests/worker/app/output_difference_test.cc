#include "worker/app/output_difference.h"

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace abacus {
namespace {

using ::testing::HasSubstr;

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

class CompareNonFiniteTest : public ::testing::Test {
 protected:
  CompareNonFiniteTest() {
    plan_.label = "batch 1";
    plan_.outputs = {{"y", at::kFloat, {3}, 12}};
  }
  Result<double> Compare(const std::vector<float>& plain, const std::vector<float>& served) const {
    return CompareNonFinite(plan_, {Floats(plain)}, {Floats(served)}, 1e-3);
  }
  BucketPlan plan_;
};

TEST_F(CompareNonFiniteTest, MissesNoLostNan) {
  for (const float value : {kNan, kInf, -kInf}) {
    EXPECT_TRUE(Compare({value, 1, 2}, {value, 1, 2}));
    const Result<double> lost = Compare({value, 1, 2}, {0, 1, 2});
    ASSERT_FALSE(lost) << value;
    EXPECT_THAT(lost.error().message(), HasSubstr("output \"y\" at batch 1 is a number in 1 places"));
  }
}

TEST_F(CompareNonFiniteTest, AcceptsNanInMorePlacesButNoOtherNumbers) {
  EXPECT_TRUE(Compare({kNan, 1, 2}, {kNan, kNan, 2}));
  EXPECT_TRUE(Compare({kInf, 1, 2}, {kNan, 1, 2}));
  EXPECT_FALSE(Compare({kNan, 1, 2}, {kNan, kNan, 3}));
}

TEST(CompareNonFinite, LeavesIntegersOut) {
  BucketPlan plan;
  plan.outputs = {{"first", at::kLong, {1}, 8}};
  EXPECT_TRUE(CompareNonFinite(plan, {at::tensor(std::vector<int64_t>{1})}, {at::tensor(std::vector<int64_t>{0})}, 0));
}

TEST(AreFinite, LooksAtFloats) {
  EXPECT_TRUE(AreFinite({Floats({1, 2}), at::tensor(std::vector<int64_t>{1})}));
  EXPECT_FALSE(AreFinite({Floats({1}), Floats({kInf})}));
}

}  // namespace
}  // namespace abacus
