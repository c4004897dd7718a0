#include "worker/torch/claim_check.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/sum.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/torch/test_models.h"

namespace abacus {
namespace {

using test::FloatTensor;
using test::IntTensor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Tensors = std::vector<at::Tensor>;

// Of one float input and output [batch, 4].
ModelSpec MakeSpec(std::vector<int64_t> batch_sizes) {
  ModelSpec spec;
  spec.name = "spec";
  spec.toml_path = "spec.toml";
  spec.batch_sizes = std::move(batch_sizes);
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 4})};
  return spec;
}

Status CheckState(const RunFn& run) {
  const ModelSpec spec = MakeSpec({1});
  return ClaimCheck(spec, run, run, false).CheckState();
}
Status CheckBatch(const ModelSpec& spec, const RunFn& run) { return ClaimCheck(spec, run, run, false).CheckBatch(); }
Status CheckSequence(const ModelSpec& spec, const RunFn& run) {
  return ClaimCheck(spec, run, run, false).CheckSequence();
}

TEST(StateTest, NothingIsFoundInAModelWithout) {
  EXPECT_TRUE(CheckState([](const Tensors& x) { return Tensors{x[0] * 2}; }).ok());
}

TEST(StateTest, FindsWhatRemembersEarlierQueries) {
  at::Tensor seen = at::ones({1});
  const Status status = CheckState([&seen](const Tensors& x) {
    seen = at::maximum(seen, x[0].abs().max().reshape({1}));
    return Tensors{x[0] / seen};
  });
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("the model keeps state"));
}

TEST(StateTest, NamesRandomNumbers) {
  EXPECT_THAT(CheckState([](const Tensors& x) { return Tensors{x[0] + at::rand_like(x[0])}; }).message(),
              HasSubstr("draws random numbers"));
}

TEST(StateTest, AcceptsKernelsThatDifferInTheLastBits) {
  int run = 0;
  EXPECT_TRUE(CheckState([&run](const Tensors& x) { return Tensors{x[0] * (1 + 1e-7 * (++run % 3))}; }).ok());
}

TEST(BatchTest, RowsOnTheirOwnPass) {
  const RunFn rowwise = [](const Tensors& x) { return Tensors{x[0] * at::sum(x[0], {1}, true)}; };
  EXPECT_TRUE(CheckBatch(MakeSpec({1, 2, 8}), rowwise).ok());
  EXPECT_TRUE(CheckBatch(MakeSpec({4}), rowwise).ok());
}

TEST(BatchTest, RoundingMayDependOnOtherRows) {
  const RunFn run = [](const Tensors& x) { return Tensors{x[0] * (at::sum(x[0]).item<float>() > 0 ? 1 + 1e-7 : 1)}; };
  EXPECT_TRUE(CheckBatch(MakeSpec({1, 4}), run).ok());
}

TEST(BatchTest, FindsWhatDependsOnOtherRows) {
  const Status status = CheckBatch(
      MakeSpec({2, 4}), [](const Tensors& x) { return Tensors{x[0] - at::mean(x[0], {0}, /*keepdim=*/true)}; });
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rows of a batch depend on each other (row 0 of output \"x\" changed"),
                                      HasSubstr("say batchable = false in spec.toml")));
}

TEST(BatchTest, FindsWhatDependsOnRowsInFrontOnly) {
  EXPECT_THAT(CheckBatch(MakeSpec({1, 4}), [](const Tensors& x) { return Tensors{at::cumsum(x[0], 0)}; }).message(),
              HasSubstr("row 3 of output \"x\""));
}

TEST(BatchTest, FindsWhatDependsOnLargeValuesOnly) {
  const RunFn run = [](const Tensors& x) { return Tensors{x[0] / (x[0].abs().max().item<float>() > 100 ? 100 : 1)}; };
  EXPECT_THAT(CheckBatch(MakeSpec({1, 4}), run).message(), HasSubstr("depend on each other"));
}

TEST(BatchTest, FindsNaNThatSpreads) {
  const RunFn run = [](const Tensors& x) { return Tensors{x[0] + 0.0 * at::sum(x[0])}; };
  EXPECT_THAT(CheckBatch(MakeSpec({1, 4}), run).message(), HasSubstr("depend on each other"));
}

TEST(BatchTest, FindsWhatDependsOnTheNumberOfRows) {
  const RunFn run = [](const Tensors& x) { return Tensors{x[0] / x[0].size(0)}; };
  EXPECT_THAT(CheckBatch(MakeSpec({1, 4}), run).message(), HasSubstr("depend on how many there are"));
  EXPECT_THAT(CheckBatch(MakeSpec({4}), run).message(), HasSubstr("depend on how many there are"));
}

TEST(BatchTest, FindsAnOutputOfTheWholeBatch) {
  ModelSpec spec = MakeSpec({1, 4});
  spec.outputs = {FloatTensor("sum", {1})};
  const RunFn run = [](const Tensors& x) { return Tensors{at::sum(x[0]).reshape({1})}; };
  EXPECT_THAT(CheckBatch(spec, run).message(), HasSubstr("of output \"sum\" changed"));
}

TEST(BatchTest, AsksNothingOfAModelThatIsNotBatched) {
  ModelSpec spec = MakeSpec({2, 4});
  spec.batchable = false;
  EXPECT_TRUE(CheckBatch(spec, [](const Tensors&) -> Result<Tensors> {
                ADD_FAILURE() << "ran";
                return Tensors{};
              }).ok());
}

// The mean over the sequence of `ids`, of zeros where they are padded.
ModelSpec MakeSequenceSpec(std::vector<int64_t> lengths) {
  ModelSpec spec = MakeSpec({1});
  spec.sequence_lengths = std::move(lengths);
  spec.inputs = {IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 9})};
  spec.outputs = {FloatTensor("y", {kBatchDim})};
  return spec;
}

TEST(SequenceTest, PaddingThatChangesNothingPasses) {
  const RunFn sum = [](const Tensors& x) { return Tensors{at::sum(x[0].to(at::kFloat), {1})}; };
  EXPECT_TRUE(CheckSequence(MakeSequenceSpec({8, 16}), sum).ok());
  EXPECT_TRUE(CheckSequence(MakeSequenceSpec({16}), sum).ok());
}

TEST(SequenceTest, FindsPaddingThatChangesTheAnswer) {
  const RunFn mean = [](const Tensors& x) { return Tensors{at::mean(x[0].to(at::kFloat), {1})}; };
  EXPECT_THAT(CheckSequence(MakeSequenceSpec({8, 16}), mean).message(),
              AllOf(HasSubstr("padding along the sequence changes the answer (padded to batch 1, sequence 16, output "
                              "\"y\" at batch 1, sequence 8 differs"),
                    HasSubstr("sequence_padding = \"exact\"")));
  EXPECT_THAT(CheckSequence(MakeSequenceSpec({16}), mean).message(), HasSubstr("sequence 8 differs"));
}

TEST(SequenceTest, AsksNothingWhereThePaddingIsAllowedOrNeverHappens) {
  const RunFn mean = [](const Tensors& x) { return Tensors{at::mean(x[0].to(at::kFloat), {1})}; };
  ModelSpec spec = MakeSequenceSpec({8, 16});
  for (const SequencePadding padding : {SequencePadding::kAllowed, SequencePadding::kExact}) {
    spec.sequence_padding = padding;
    EXPECT_TRUE(CheckSequence(spec, mean).ok());
  }
}

TEST(SequenceTest, ALengthThatOnlyBucketsHaveIsNotHeldAgainstTheModel) {
  const RunFn fixed = [](const Tensors& x) -> Result<Tensors> {
    if (x[0].size(1) != 16) return Error(StatusCode::kInvalidArgument, "traced at 16");
    return Tensors{at::mean(x[0].to(at::kFloat), {1})};
  };
  EXPECT_TRUE(CheckSequence(MakeSequenceSpec({16}), fixed).ok());
}

}  // namespace
}  // namespace abacus
