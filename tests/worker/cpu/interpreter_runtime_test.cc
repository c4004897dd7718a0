// The CPU runtime, through the factory as the worker uses it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/worker/torch/several_queries.h"
#include "tests/worker/torch/test_models.h"
#include "worker/app/runtime_factory.h"

namespace abacus {
namespace {

using test::Job;
using ::testing::HasSubstr;

std::unique_ptr<TorchRuntime> Load(const ModelSpec& spec) {
  Result<std::unique_ptr<TorchRuntime>> runtime = LoadTorchRuntime(spec, RuntimeOptions());
  if (!runtime) ADD_FAILURE() << runtime.error().ToString();
  return runtime ? std::move(*runtime) : nullptr;
}

class EveryModelTest : public ::testing::TestWithParam<test::TestModel> {
 protected:
  void SetUp() override {
    spec_ = GetParam().make(dir_);
    runtime_ = Load(spec_);
    ASSERT_NE(runtime_, nullptr);
  }

  // Runs a chain of ranges on `job` after a run of another job, and returns its outputs.
  std::vector<std::vector<std::byte>> RunChain(uint32_t bucket, const std::vector<uint32_t>& chain, Job* job) {
    Job other(spec_, bucket, 99);
    EXPECT_TRUE(runtime_->Run(bucket, 0, runtime_->ranges(bucket).operators, other.tensors()).ok());
    job->ClearOutputs();
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      const Status status = runtime_->Run(bucket, chain[i], chain[i + 1], job->tensors());
      EXPECT_TRUE(status.ok()) << status.ToString();
    }
    return job->outputs();
  }

  test::TempDir dir_;
  ModelSpec spec_;
  std::unique_ptr<TorchRuntime> runtime_;
};

TEST_P(EveryModelTest, EveryPairOfCutsGivesTheUncutOutputs) {
  for (uint32_t bucket = 0; bucket < spec_.bucket_count(); ++bucket) {
    for (uint64_t seed : {1, 2, 3}) {
      Job job(spec_, bucket, seed);
      const std::vector<std::vector<std::byte>> inputs = job.inputs();
      ASSERT_TRUE(runtime_->RunUncut(bucket, job.tensors()).ok());
      const std::vector<std::vector<std::byte>> expected = job.outputs();
      const std::vector<uint32_t>& cuts = runtime_->ranges(bucket).cuts;
      ASSERT_GE(cuts.size(), 5u);
      EXPECT_EQ(RunChain(bucket, {0, cuts.back()}, &job), expected);
      EXPECT_EQ(RunChain(bucket, cuts, &job), expected);
      for (size_t i = 1; i + 1 < cuts.size(); ++i) {
        EXPECT_EQ(RunChain(bucket, {0, cuts[i], cuts.back()}, &job), expected) << "cut " << cuts[i];
        for (size_t j = i + 1; j + 1 < cuts.size(); ++j) {
          EXPECT_EQ(RunChain(bucket, {0, cuts[i], cuts[j], cuts.back()}, &job), expected)
              << "cuts " << cuts[i] << ", " << cuts[j];
        }
      }
      EXPECT_EQ(job.inputs(), inputs) << "the model wrote to the job's inputs";
    }
  }
}

// Where a query's tensor is used as it lies, without a copy.
TEST_P(EveryModelTest, AnswersTheSameFromAlignedMemoryAndLeavesItAlone) {
  const auto bucket = static_cast<uint32_t>(spec_.bucket_count() - 1);
  Job job(spec_, bucket, 1);
  ASSERT_TRUE(runtime_->RunUncut(bucket, job.tensors()).ok());
  const std::vector<std::vector<std::byte>> expected = job.outputs();
  const test::Arena arena(1 << 20);
  std::byte* next = arena.bytes().data();
  std::vector<const std::byte*> inputs;
  for (const std::vector<std::byte>& input : job.inputs()) {
    std::memcpy(next, input.data(), input.size());
    inputs.push_back(next);
    next += (input.size() + 255) / 256 * 256;
  }
  QueryTensors query = job.query();
  query.inputs = inputs;
  for (int run = 0; run < 2; ++run) {
    job.ClearOutputs();
    ASSERT_TRUE(runtime_->Run(bucket, 0, runtime_->ranges(bucket).operators, {&query, 1}).ok());
    EXPECT_EQ(job.outputs(), expected);
    for (size_t i = 0; i < inputs.size(); ++i) {
      EXPECT_EQ(std::memcmp(inputs[i], job.inputs()[i].data(), job.inputs()[i].size()), 0) << "input " << i;
    }
  }
}

TEST_P(EveryModelTest, SyntheticJobsRunAndLeaveNoTrace) {
  Job job(spec_, 0, 1);
  ASSERT_TRUE(runtime_->RunUncut(0, job.tensors()).ok());
  const std::vector<std::vector<std::byte>> expected = job.outputs();
  const uint32_t operators = runtime_->ranges(0).operators;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(runtime_->Run(0, 0, operators, {}).ok());
  EXPECT_EQ(RunChain(0, {0, operators}, &job), expected);
  EXPECT_GT(runtime_->ranges(0).solo_ns, 0u);
}

INSTANTIATE_TEST_SUITE_P(Models, EveryModelTest, ::testing::ValuesIn(test::AllModels()),
                         [](const auto& param) { return std::string(param.param.name); });

// Four operators at least: matmul, embedding, add, tanh.
ModelSpec MakeLookup(const test::TempDir& dir) {
  ModelSpec spec = test::SaveModel(dir, "lookup",
                                   R"(
def forward(self, x, ids):
    hidden = torch.matmul(x, self.weight)
    return torch.tanh(torch.embedding(self.table, ids) + hidden)
)",
                                   {{"weight", {6, 8}}, {"table", {10, 8}}});
  spec.inputs = {test::FloatTensor("x", {kBatchDim, 6}), test::IntTensor("ids", {kBatchDim}, {0, 9})};
  spec.outputs = {test::FloatTensor("y", {kBatchDim, 8})};
  return spec;
}

class JobTest : public ::testing::Test {
 protected:
  void SetUp() override {
    runtime_ = Load(spec_);
    ASSERT_NE(runtime_, nullptr);
    operators_ = runtime_->ranges(0).operators;
    ASSERT_GE(operators_, 4u);
  }

  test::TempDir dir_;
  const ModelSpec spec_ = MakeLookup(dir_);
  std::unique_ptr<TorchRuntime> runtime_;
  uint32_t operators_ = 0;
};

TEST_F(JobTest, ARangeMustContinueTheJobInProgress) {
  Job job(spec_, 0, 1);
  EXPECT_EQ(runtime_->Run(0, 1, 2, job.tensors()).code(), StatusCode::kInternal);  // no job yet
  ASSERT_TRUE(runtime_->Run(0, 0, 2, job.tensors()).ok());
  EXPECT_EQ(runtime_->Run(0, 3, operators_, job.tensors()).code(), StatusCode::kInternal);  // skips [2, 3)
  ASSERT_TRUE(runtime_->Run(0, 0, 2, job.tensors()).ok());
  Job batch_of_two(spec_, 1, 1);
  EXPECT_EQ(runtime_->Run(1, 2, operators_, batch_of_two.tensors()).code(), StatusCode::kInternal);  // other bucket
  ASSERT_TRUE(runtime_->Run(0, 0, operators_, job.tensors()).ok());
  EXPECT_EQ(runtime_->Run(0, operators_ - 1, operators_, job.tensors()).code(), StatusCode::kInternal);  // ended
}

TEST_F(JobTest, ANewJobAbandonsTheOldOne) {
  Job first(spec_, 0, 1);
  Job second(spec_, 1, 2);
  ASSERT_TRUE(runtime_->RunUncut(1, second.tensors()).ok());
  const auto expected = second.outputs();
  second.ClearOutputs();
  ASSERT_TRUE(runtime_->Run(0, 0, 2, first.tensors()).ok());
  ASSERT_TRUE(runtime_->Run(1, 0, 2, second.tensors()).ok());
  ASSERT_TRUE(runtime_->Run(1, 2, operators_, second.tensors()).ok());
  EXPECT_EQ(second.outputs(), expected);
}

TEST_F(JobTest, AnErrorOfTheModelEndsOnlyItsJob) {
  Job bad(spec_, 0, 1);
  const int64_t outside = 10;
  std::memcpy(bad.mutable_inputs()[1].data(), &outside, sizeof(outside));
  const Status status = runtime_->Run(0, 0, operators_, bad.tensors());
  EXPECT_EQ(status.code(), StatusCode::kWorkerFailed);
  EXPECT_THAT(status.message(), HasSubstr("model \"lookup\", bucket 0 (batch 1), operators [0, "));
  EXPECT_THAT(status.message(), HasSubstr("index out of range"));
  EXPECT_FALSE(runtime_->IsFatal());
  Job good(spec_, 0, 1);
  EXPECT_TRUE(runtime_->Run(0, 0, operators_, good.tensors()).ok());
}

TEST_F(JobTest, RefusesTheWrongNumberOfTensors) {
  Job job(spec_, 0, 1);
  QueryTensors one_input = job.query();
  one_input.inputs = one_input.inputs.first(1);
  EXPECT_EQ(runtime_->Run(0, 0, operators_, {&one_input, 1}).code(), StatusCode::kInternal);
}

TEST_F(JobTest, RefusesMoreRowsThanTheBucketHas) {
  Job job(spec_, 1, 1);  // two rows
  EXPECT_EQ(runtime_->Run(0, 0, operators_, job.tensors()).code(), StatusCode::kInternal);
  EXPECT_EQ(runtime_->RunUncut(0, job.tensors()).code(), StatusCode::kInternal);
}

TEST_F(JobTest, RunsNothingThatDoesNotEndOnCuts) {
  Job job(spec_, 0, 1);
  EXPECT_EQ(runtime_->Run(0, 0, operators_ + 1, job.tensors()).code(), StatusCode::kInternal);
  EXPECT_EQ(runtime_->Run(0, 0, 0, job.tensors()).code(), StatusCode::kInternal);
}

TEST(SeveralQueriesTest, GiveTheOutputsOfEachAlone) {
  const test::TempDir dir;
  const ModelSpec spec = test::MakeRowwise(dir);
  const std::unique_ptr<TorchRuntime> runtime = Load(spec);
  ASSERT_NE(runtime, nullptr);
  test::ExpectOutputsOfEachAlone(*runtime, spec);
}

TEST(SeveralQueriesTest, WhatNoQueryFillsIsPadding) {
  const test::TempDir dir;
  const ModelSpec spec = test::MakeWholeBatch(dir);
  const std::unique_ptr<TorchRuntime> runtime = Load(spec);
  ASSERT_NE(runtime, nullptr);
  test::ExpectNothingButPadding(*runtime, spec);
}

TEST(SeveralQueriesTest, RandomJobsAnswerAsEachQueryAloneAndTouchNothingElse) {
  const test::TempDir dir;
  const test::Arena arena(4 << 20);
  for (const bool shared : {false, true}) {
    const ModelSpec spec = test::MakeMixedRows(dir, shared);
    const std::unique_ptr<TorchRuntime> runtime = Load(spec);
    ASSERT_NE(runtime, nullptr);
    test::ExpectRandomJobsToAnswerAsEachAlone(*runtime, spec, arena.bytes());
  }
}

class MeasuringTest : public ::testing::Test {
 protected:
  std::unique_ptr<TorchRuntime> LoadWith(std::vector<BucketRanges> known, bool measure) {
    RuntimeOptions options;
    options.hooks.progress = [this](std::string_view stage) { stages_.emplace_back(stage); };
    options.hooks.await_turn = [this] {
      ++turns_;
      stages_.emplace_back("turn");
    };
    options.hooks.known = std::move(known);
    options.hooks.measure = measure;
    Result<std::unique_ptr<TorchRuntime>> runtime = LoadTorchRuntime(spec_, options);
    if (!runtime) ADD_FAILURE() << runtime.error().ToString();
    return runtime ? std::move(*runtime) : nullptr;
  }
  std::vector<BucketRanges> Ranges(const TorchRuntime& runtime) const {
    std::vector<BucketRanges> ranges;
    for (uint32_t b = 0; b < spec_.bucket_count(); ++b) ranges.push_back(runtime.ranges(b));
    return ranges;
  }

  const test::TempDir dir_;
  const ModelSpec spec_ = MakeLookup(dir_);
  std::vector<std::string> stages_;
  int turns_ = 0;
};

TEST_F(MeasuringTest, AwaitsItsTurnOnceBeforeTheFirstBucket) {
  ASSERT_NE(LoadWith({}, true), nullptr);
  EXPECT_THAT(stages_, ::testing::ElementsAre("load", "freeze", "check", "turn", "measure bucket 1 of 3",
                                              "measure bucket 2 of 3", "measure bucket 3 of 3"));
}

TEST_F(MeasuringTest, TakesOverWhatIsKnownAndMeasuresTheRest) {
  const auto first = LoadWith({}, true);
  ASSERT_NE(first, nullptr);
  std::vector<BucketRanges> known = Ranges(*first);
  known[0].cuts = {0, 2, known[0].operators};
  known[0].solo_ns = 123;
  stages_.clear();
  const auto all_known = LoadWith(known, true);
  ASSERT_NE(all_known, nullptr);
  EXPECT_THAT(stages_, ::testing::ElementsAre("load", "freeze", "check"));
  EXPECT_EQ(all_known->ranges(0).cuts, known[0].cuts);
  EXPECT_EQ(all_known->ranges(0).solo_ns, 123u);
  Job job(spec_, 0, 1);  // the cuts that were taken over can be run
  ASSERT_TRUE(all_known->RunUncut(0, job.tensors()).ok());
  const auto expected = job.outputs();
  job.ClearOutputs();
  EXPECT_TRUE(all_known->Run(0, 0, 2, job.tensors()).ok());
  EXPECT_TRUE(all_known->Run(0, 2, known[0].operators, job.tensors()).ok());
  EXPECT_EQ(job.outputs(), expected);

  known[1].operators += 1;  // of another graph
  stages_.clear();
  ASSERT_NE(LoadWith(known, true), nullptr);
  EXPECT_THAT(stages_, ::testing::ElementsAre("load", "freeze", "check", "turn", "measure bucket 2 of 3"));
}

TEST_F(MeasuringTest, WithoutMeasuringEveryBucketIsOneWhole) {
  const auto runtime = LoadWith({}, false);
  ASSERT_NE(runtime, nullptr);
  EXPECT_EQ(turns_, 0);
  for (uint32_t b = 0; b < spec_.bucket_count(); ++b) {
    EXPECT_EQ(runtime->ranges(b).cuts, (std::vector<uint32_t>{0, runtime->ranges(b).operators}));
    EXPECT_TRUE(runtime->Run(b, 0, runtime->ranges(b).operators, {}).ok());
  }
}

TEST_F(MeasuringTest, ABucketThatDoesNotRunRefusesTheModel) {
  // Between the smallest and the largest, which alone are compared with the module.
  ModelSpec spec = test::SaveModel(dir_, "not-two", R"(
def forward(self, x):
    assert x.size(0) != 2, "two rows"
    return torch.relu(x)
)");
  spec.inputs = spec.outputs = {test::FloatTensor("x", {kBatchDim, 6})};
  spec.batchable = false;
  for (const bool measure : {true, false}) {
    RuntimeOptions options;
    options.hooks.measure = measure;
    const auto runtime = LoadTorchRuntime(spec, options);
    ASSERT_FALSE(runtime.has_value());
    EXPECT_EQ(runtime.error().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(runtime.error().message(), HasSubstr("bucket 1 (batch 2)"));
  }
}

TEST_F(JobTest, ItsStructureIsTheProgramsDigest) { EXPECT_EQ(runtime_->structure().size(), 64u); }

TEST_F(JobTest, SaysWhatItRunsOn) {
  EXPECT_THAT(runtime_->device_name(), ::testing::ContainsRegex(".+, [0-9]+ threads?$"));
  EXPECT_THAT(runtime_->libraries(), ::testing::StartsWith("LibTorch 2."));
}

}  // namespace
}  // namespace abacus
