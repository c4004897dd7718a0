// The CPU runtime, through the factory as the worker uses it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

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

TEST_F(JobTest, SaysWhatItRunsOn) {
  EXPECT_THAT(runtime_->device_name(), ::testing::ContainsRegex(".+, [0-9]+ threads?$"));
  EXPECT_THAT(runtime_->libraries(), ::testing::StartsWith("LibTorch 2."));
}

}  // namespace
}  // namespace abacus
