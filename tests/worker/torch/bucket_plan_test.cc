#include "worker/torch/bucket_plan.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/worker/torch/test_models.h"

namespace abacus {
namespace {

using test::FloatTensor;
using test::IntTensor;
using ::testing::ElementsAre;

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

TEST(BucketPlanTest, MasksHideNoWholeRowWhicheverValueHides) {
  const at::Tensor mask = MakeSampleInputs(MakeSpec(), 3, 11)[1];
  EXPECT_TRUE(at::equal(mask.select(1, 0), at::ones({4}, at::TensorOptions(at::kLong))));
  EXPECT_EQ(mask.select(1, -1).max().item<int64_t>(), 0);
}

TEST(BucketPlanTest, EveryScaleGivesFloatsOfItsOwn) {
  ModelSpec spec = MakeSpec();
  spec.inputs = {FloatTensor("x", {kBatchDim, 1000})};
  EXPECT_THAT(ScalesOf(spec),
              ElementsAre(SampleScale::kNormal, SampleScale::kUnit, SampleScale::kPixels, SampleScale::kThousand));
  const auto ends = [&spec](SampleScale scale) {
    const at::Tensor x = MakeSampleInputs(spec, 0, 1, scale)[0];
    return std::pair(x.min().item<float>(), x.max().item<float>());
  };
  EXPECT_LT(ends(SampleScale::kNormal).first, -1);
  EXPECT_GE(ends(SampleScale::kUnit).first, 0);
  EXPECT_LE(ends(SampleScale::kUnit).second, 1);
  EXPECT_EQ(ends(SampleScale::kPixels).first, 0);
  EXPECT_EQ(ends(SampleScale::kPixels).second, 255);
  EXPECT_GT(ends(SampleScale::kThousand).second, 1000);
  EXPECT_EQ(ScaleName(spec, SampleScale::kPixels), "pixels 0..255");
}

TEST(BucketPlanTest, FloatsStayInTheirDeclaredRangeAtEveryScale) {
  ModelSpec spec = MakeSpec();
  spec.inputs = {{"p", DType::kFloat16, {kBatchDim, 1000}, {}, 0, FloatRange{0.01, 1}}};
  EXPECT_THAT(ScalesOf(spec), ElementsAre(SampleScale::kNormal));
  EXPECT_EQ(ScaleName(spec, SampleScale::kNormal), "declared range");
  spec.inputs.push_back(FloatTensor("x", {kBatchDim, 4}));
  EXPECT_EQ(ScalesOf(spec).size(), 4u);
  EXPECT_EQ(ScaleName(spec, SampleScale::kNormal), "N(0, 1)");
  for (const SampleScale scale : ScalesOf(spec)) {
    const at::Tensor p = MakeSampleInputs(spec, 0, 1, scale)[0].to(at::kDouble);
    EXPECT_GE(p.min().item<double>(), 0.01 - 1e-4);
    EXPECT_LE(p.max().item<double>(), 1);
    EXPECT_GT(p.max().item<double>() - p.min().item<double>(), 0.9);
  }
}

TEST(BucketPlanTest, LengthsEndAtTheSequenceOfTheQuery) {
  ModelSpec spec = MakeSpec();
  spec.inputs = {IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 9}), IntTensor("lengths", {kBatchDim}, {1, 64, true})};
  const at::Tensor lengths = MakeSampleInputs(spec, Bucket{500, 5}, 1)[1];
  EXPECT_EQ(lengths.min().item<int64_t>(), 1);
  EXPECT_EQ(lengths.max().item<int64_t>(), 5);
}

TEST(BucketPlanTest, PadsAndTrimsAsAJobOfOneQueryDoes) {
  ModelSpec spec = MakeSpec();
  spec.inputs[0].pad = 4;
  spec.outputs = {FloatTensor("y", {kBatchDim, kSequenceDim, 2})};
  const Bucket query{2, 5};
  const std::vector<at::Tensor> inputs = MakeSampleInputs(spec, query, 1);
  const std::vector<at::Tensor> padded = PadInputs(spec, {4, 8}, query, inputs);
  EXPECT_TRUE(at::equal(padded[0].narrow(0, 0, 2).narrow(1, 0, 5), inputs[0]));
  EXPECT_EQ(padded[0].narrow(0, 2, 2).min().item<int64_t>(), 4);
  EXPECT_EQ(padded[0].narrow(1, 5, 3).max().item<int64_t>(), 4);
  EXPECT_EQ(padded[2].narrow(0, 2, 2).abs().max().item<float>(), 0);
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(at::equal(TrimInputs(spec, query, padded)[i], inputs[i]));
  EXPECT_THAT(TrimOutputs(spec, query, {at::ones({4, 8, 2})})[0].sizes(), ElementsAre(2, 5, 2));
}

}  // namespace
}  // namespace abacus
