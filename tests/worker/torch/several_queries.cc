#include "tests/worker/torch/several_queries.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "models/tensor_layout.h"
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
    const auto width = static_cast<int64_t>(job.inputs()[1].size() / sizeof(int64_t)) / (rows * sequence);
    int64_t sum = 3 * (4 * 8 - rows * sequence) * width;
    for (const int64_t id : As<int64_t>(job.inputs()[1])) sum += id;
    EXPECT_EQ(As<float>(job.outputs()[0]).front(), largest) << rows << " rows of length " << sequence;
    EXPECT_EQ(As<int64_t>(job.outputs()[1]).front(), sum) << rows << " rows of length " << sequence;
  }
}

RandomJob::RandomJob(const ModelSpec& spec, uint32_t bucket, std::span<std::byte> arena, uint64_t seed)
    : bucket_(bucket), arena_(arena) {
  std::mt19937_64 random(seed);
  const auto below = [&random](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
  std::ranges::fill(arena, seed % 2 == 0 ? std::byte{0xEE} : std::byte{0xFF});  // -3.7e28, NaN; no valid index
  const Bucket shape = spec.bucket(bucket);
  const int64_t most_queries = MayShareBatch(spec) ? shape.batch : 1;
  int64_t rows_left = shape.batch;
  uint64_t end_bytes = 0;
  while (rows_left > 0 && static_cast<int64_t>(parts_.size()) < most_queries && (parts_.empty() || below(8) > 0)) {
    const int64_t rows = 1 + below(std::min<int64_t>(rows_left, 3));
    const int64_t sequence = spec.has_sequence() ? 1 + below(shape.sequence) : 0;
    const int64_t other_rows = MayBeSplit(spec) ? below(3) : 0, first_row = below(other_rows + 1);
    const TensorLayout part = PartOf(spec, rows + other_rows, sequence, first_row, rows);
    std::byte* const block = arena.data() + end_bytes + static_cast<uint64_t>(below(3)) * kTensorAlignBytes;
    end_bytes = static_cast<uint64_t>(block - arena.data()) + part.total_bytes;
    if (end_bytes > arena.size()) throw std::length_error("the test's arena is too small");

    Part& added = parts_.emplace_back();
    added.alone = std::make_unique<Job>(spec, rows, sequence, seed * 100 + parts_.size());
    added.has_nan = below(4) == 0;
    for (size_t i = 0; i < spec.inputs.size(); ++i) {
      std::vector<std::byte>& input = added.alone->mutable_inputs()[i];
      if (added.has_nan && spec.inputs[i].dtype == DType::kFloat32) {
        Fill(input, std::numeric_limits<float>::quiet_NaN());
      }
      EXPECT_EQ(input.size(), part.inputs[i].bytes);
      std::memcpy(block + part.inputs[i].offset_bytes, input.data(), input.size());
      added.inputs.push_back(block + part.inputs[i].offset_bytes);
    }
    for (const TensorExtent& extent : part.outputs) added.outputs.push_back(block + extent.offset_bytes);
    rows_left -= rows;
  }
  for (const Part& part : parts_) {
    const QueryTensors& alone = part.alone->query();
    queries_.push_back({alone.rows, alone.sequence, part.inputs, part.outputs});
  }
  before_.assign(arena.begin(), arena.end());
}

void RandomJob::RunEachAlone(TorchRuntime& runtime) {
  for (const Part& part : parts_) {
    ExpectRuns(runtime, bucket_, {0, runtime.ranges(bucket_).operators}, part.alone->tensors());
  }
}

void RandomJob::ExpectOnlyItsOutputs() const {
  std::vector<std::byte> expected = before_;
  for (const Part& part : parts_) {
    for (size_t i = 0; i < part.outputs.size(); ++i) {
      const std::vector<std::byte>& alone = part.alone->outputs()[i];
      // What becomes of NaN is not the same in every bit; that it stays in its rows is what counts.
      const std::byte* const source = part.has_nan ? part.outputs[i] : alone.data();
      std::memcpy(expected.data() + (part.outputs[i] - arena_.data()), source, alone.size());
    }
  }
  const auto [wrong, right] = std::ranges::mismatch(arena_, expected);
  EXPECT_TRUE(wrong == arena_.end()) << "at byte " << wrong - arena_.begin() << " of the arena";
}

void PoisonBucket(TorchRuntime& runtime, const ModelSpec& spec, uint32_t bucket) {
  Job poison(spec, bucket, 1);
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    if (spec.inputs[i].dtype == DType::kFloat32) {
      Fill(poison.mutable_inputs()[i], std::numeric_limits<float>::quiet_NaN());
    } else {
      Fill<int64_t>(poison.mutable_inputs()[i], spec.inputs[i].range->high);
    }
  }
  // As often as ranges may be started: each has memory of its own.
  for (size_t i = 0; i < ModelRuntime::kMaxStarted; ++i) {
    ExpectRuns(runtime, bucket, {0, runtime.ranges(bucket).operators}, poison.tensors());
  }
}

void ExpectRandomJobsToAnswerAsEachAlone(TorchRuntime& runtime, const ModelSpec& spec, std::span<std::byte> arena) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto bucket = static_cast<uint32_t>(seed % spec.bucket_count());
    RandomJob job(spec, bucket, arena, seed);
    job.RunEachAlone(runtime);
    PoisonBucket(runtime, spec, bucket);
    const std::vector<uint32_t>& cuts = runtime.ranges(bucket).cuts;
    if (seed % 3 == 0) {
      EXPECT_TRUE(runtime.RunUncut(bucket, job.tensors()).ok());
    } else {
      ExpectRuns(runtime, bucket, seed % 3 == 1 ? cuts : std::vector<uint32_t>{0, cuts.back()}, job.tensors());
    }
    job.ExpectOnlyItsOutputs();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace abacus::test
