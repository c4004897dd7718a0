#include "worker/torch/bucket_plan.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/worker/torch/test_models.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

using test::FloatTensor;
using test::IntTensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelSpec MakeSpec() {
  ModelSpec spec;
  spec.name = "spec";
  spec.batch_sizes = {1, 4};
  spec.sequence_lengths = {8, 64};
  spec.inputs = {IntTensor("ids", {kBatchDim, kSequenceDim}, {3, 6}),
                 IntTensor("mask", {kBatchDim, kSequenceDim}, {0, 1}), FloatTensor("x", {kBatchDim, 16})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 2})};
  return spec;
}

TEST(BucketPlanTest, ShapesAndBytesFollowTheBucket) {
  const BucketPlan plan = PlanBucket(MakeSpec(), 3);
  EXPECT_EQ(plan.label, "batch 4, sequence 64");
  EXPECT_THAT(plan.inputs[0].sizes, ElementsAre(4, 64));
  EXPECT_EQ(plan.inputs[0].bytes, 4u * 64 * 8);
  EXPECT_EQ(plan.inputs[2].dtype, at::kFloat);
  EXPECT_THAT(plan.outputs[0].sizes, ElementsAre(4, 2));
}

TEST(BucketPlanTest, SamplesStayInRangeAndRepeat) {
  const ModelSpec spec = MakeSpec();
  const std::vector<at::Tensor> sample = MakeSampleInputs(spec, 3, 11);
  EXPECT_EQ(sample[0].min().item<int64_t>(), 3);
  EXPECT_EQ(sample[0].max().item<int64_t>(), 6);
  EXPECT_EQ(sample[1].min().item<int64_t>(), 0);  // mixed, and no row without a one
  EXPECT_TRUE(at::equal(sample[1].select(1, 0), at::ones({4}, at::TensorOptions(at::kLong))));
  const std::vector<at::Tensor> again = MakeSampleInputs(spec, 3, 11);
  for (size_t i = 0; i < sample.size(); ++i) EXPECT_TRUE(at::equal(sample[i], again[i]));
  EXPECT_FALSE(at::equal(sample[2], MakeSampleInputs(spec, 3, 12)[2]));
}

TEST(CompareOutputsTest, MeasuresRelativeToTheLargestValue) {
  const BucketPlan plan = PlanBucket(MakeSpec(), 0);
  const std::vector<at::Tensor> expected = {at::full({1, 2}, 100.0)};
  const std::vector<at::Tensor> actual = {at::full({1, 2}, 100.5)};
  EXPECT_NEAR(CompareOutputs(plan, expected, actual, 0.01).value(), 0.005, 1e-9);
  const Result<double> refused = CompareOutputs(plan, expected, actual, 0.001);
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message(), HasSubstr("output \"y\" at batch 1, sequence 8 differs"));
  EXPECT_THAT(refused.error().message(), HasSubstr("0.005"));
  EXPECT_THAT(refused.error().message(), HasSubstr("tolerance is 0.001"));
}

TEST(CompareOutputsTest, RefusesValuesThatAreNotFiniteOnlyWhereTheReferenceIs) {
  const BucketPlan plan = PlanBucket(MakeSpec(), 0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor finite = at::ones({1, 2});
  const at::Tensor half_nan = at::stack({at::ones({1}), at::full({1}, nan)}, 1);
  EXPECT_FALSE(CompareOutputs(plan, {finite}, {half_nan}, 1.0).has_value());
  EXPECT_EQ(CompareOutputs(plan, {half_nan}, {half_nan}, 0.0).value(), 0.0);
  EXPECT_EQ(CompareOutputs(plan, {half_nan}, {finite}, 0.0).value(), 0.0);
}

TEST(FlattenOutputsTest, TakesTensorsTuplesAndListsOnly) {
  const at::Tensor t = at::ones({1});
  EXPECT_EQ(FlattenOutputs(t)->size(), 1u);
  EXPECT_EQ(FlattenOutputs(c10::ivalue::Tuple::create({t, t}))->size(), 2u);
  EXPECT_EQ(FlattenOutputs(std::vector<at::Tensor>{t, t, t})->size(), 3u);
  EXPECT_THAT(FlattenOutputs(int64_t{1}).error().message(), HasSubstr("forward() returns Int"));
  EXPECT_FALSE(FlattenOutputs(c10::ivalue::Tuple::create({t, int64_t{1}})).has_value());
}

}  // namespace
}  // namespace abacus
