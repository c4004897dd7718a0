#include "tests/worker/torch/several_queries.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "tests/worker/torch/test_models.h"

namespace abacus::test {
namespace {

void ExpectRuns(TorchRuntime& runtime, uint32_t bucket, const std::vector<uint32_t>& chain, JobTensors job) {
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    const Status status = runtime.Run(bucket, chain[i], chain[i + 1], job);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
}

template <class T>
std::vector<T> As(const std::vector<std::byte>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

template <class T>
void Fill(std::vector<std::byte>& bytes, T value) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(T)) std::memcpy(&bytes[at], &value, sizeof(T));
}

}  // namespace

void ExpectOutputsOfEachAlone(TorchRuntime& runtime, const ModelSpec& spec) {
  const uint32_t bucket = spec.FindBucket(4, 8).value();
  const std::vector<uint32_t>& cuts = runtime.ranges(bucket).cuts;
  std::vector<std::unique_ptr<Job>> jobs;  // together they fill the batch, two of them do not
  for (const auto& [rows, sequence] : {std::pair{1, 3}, {2, 7}, {1, 8}}) {
    jobs.push_back(std::make_unique<Job>(spec, rows, sequence, /*seed=*/jobs.size() + 1));
  }
  std::vector<std::vector<std::vector<std::byte>>> alone;
  for (const auto& job : jobs) {
    ExpectRuns(runtime, bucket, {0, cuts.back()}, job->tensors());
    alone.push_back(job->outputs());
  }
  for (const size_t count : {2, 3}) {
    std::vector<QueryTensors> together;
    for (size_t i = 0; i < count; ++i) together.push_back(jobs[i]->query());
    for (const std::vector<uint32_t>& chain : {cuts, {0, cuts.back()}, {}}) {
      for (const auto& job : jobs) job->ClearOutputs();
      if (chain.empty()) {
        EXPECT_TRUE(runtime.RunUncut(bucket, together).ok());
      }
      ExpectRuns(runtime, bucket, chain, together);
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(jobs[i]->outputs(), alone[i]) << "query " << i << " of " << count;
    }
  }
  // The queries do not fit one bucket that is smaller.
  const std::vector<QueryTensors> two = {jobs[0]->query(), jobs[1]->query()};
  const uint32_t short_bucket = spec.FindBucket(4, 4).value(), small_bucket = spec.FindBucket(2, 8).value();
  for (const uint32_t small : {short_bucket, small_bucket}) {
    EXPECT_EQ(runtime.Run(small, 0, runtime.ranges(small).operators, two).code(), StatusCode::kInternal);
  }
}

void ExpectNothingButPadding(TorchRuntime& runtime, const ModelSpec& spec) {
  const uint32_t bucket = spec.FindBucket(4, 8).value();
  const uint32_t operators = runtime.ranges(bucket).operators;
  Job poison(spec, 4, 8, 1);
  Fill<float>(poison.mutable_inputs()[0], 1e9f);
  Fill<int64_t>(poison.mutable_inputs()[1], 40);
  for (const auto& [rows, sequence] : {std::pair{1, 3}, {3, 8}, {4, 7}, {2, 1}}) {
    Job job(spec, rows, sequence, 2);
    ExpectRuns(runtime, bucket, {0, operators}, poison.tensors());
    EXPECT_EQ(As<float>(poison.outputs()[0]).front(), 1e9f);
    ExpectRuns(runtime, bucket, {0, operators}, job.tensors());
    float largest = 0;
    for (const float x : As<float>(job.inputs()[0])) largest = std::max(largest, std::abs(x));
    int64_t sum = 3 * (4 * 8 - rows * sequence);
    for (const int64_t id : As<int64_t>(job.inputs()[1])) sum += id;
    EXPECT_EQ(As<float>(job.outputs()[0]).front(), largest) << rows << " rows of length " << sequence;
    EXPECT_EQ(As<int64_t>(job.outputs()[1]).front(), sum) << rows << " rows of length " << sequence;
  }
}

}  // namespace abacus::test
