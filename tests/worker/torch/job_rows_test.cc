#include "worker/torch/job_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace abacus {
namespace {

// One byte per element, so that a tensor reads as text.
ModelSpec MakeSpec() {
  ModelSpec spec;
  spec.name = "letters";
  spec.batch_sizes = {4};
  spec.sequence_lengths = {5};
  spec.inputs = {{"text", DType::kUInt8, {kBatchDim, kSequenceDim}, {}, '.'},
                 {"tag", DType::kUInt8, {kBatchDim, 2}, {}, '-'}};
  spec.outputs = {{"echo", DType::kUInt8, {kBatchDim, kSequenceDim}, {}, 0}};
  return spec;
}
constexpr Bucket kBucket = {4, 5};

class Query {
 public:
  Query(uint32_t rows, uint32_t sequence, const std::string& text, const std::string& tag)
      : text_(text), tag_(tag), echo_(text.size(), '?') {
    inputs_ = {Bytes(text_), Bytes(tag_)};
    outputs_ = {Bytes(echo_)};
    tensors_ = {rows, sequence, inputs_, outputs_};
  }
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  QueryTensors& tensors() { return tensors_; }
  const std::string& echo() const { return echo_; }

 private:
  static std::byte* Bytes(std::string& text) { return reinterpret_cast<std::byte*>(text.data()); }

  std::string text_, tag_, echo_;
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
  QueryTensors tensors_;
};

std::string Gather(size_t input, size_t bytes, JobTensors job) {
  std::string batch(bytes, '?');
  GatherInput({reinterpret_cast<std::byte*>(batch.data()), batch.size()}, MakeSpec(), kBucket, input, job);
  return batch;
}

TEST(JobRowsTest, QueriesLieOneAfterAnotherAndTheRestIsPadding) {
  Query first(1, 3, "abc", "AA"), second(2, 4, "defghijk", "BBCC");
  const std::vector<QueryTensors> job = {first.tensors(), second.tensors()};
  ASSERT_TRUE(CheckJob(MakeSpec(), kBucket, job).ok());
  EXPECT_EQ(Gather(0, 20, job), "abc..defg.hijk......");
  EXPECT_EQ(Gather(1, 8, job), "AABBCC--");
  const std::string batch = "abc11defg2hijk333333";
  ScatterOutput(reinterpret_cast<const std::byte*>(batch.data()), MakeSpec(), kBucket, 0, job);
  EXPECT_EQ(first.echo(), "abc");
  EXPECT_EQ(second.echo(), "defghijk");
}

TEST(JobRowsTest, KnowsWhatAJobFills) {
  const ModelSpec spec = MakeSpec();
  Query full(4, 5, std::string(20, 'x'), std::string(8, 'y')), narrow(4, 3, std::string(12, 'x'), std::string(8, 'y'));
  Query one(1, 5, "abcde", "AA"), three(3, 5, std::string(15, 'x'), std::string(6, 'y'));
  EXPECT_TRUE(Fills(spec.inputs[0], kBucket, {&full.tensors(), 1}));
  EXPECT_FALSE(Fills(spec.inputs[0], kBucket, {&narrow.tensors(), 1}));
  EXPECT_TRUE(Fills(spec.inputs[1], kBucket, {&narrow.tensors(), 1})) << "it has no sequence";
  EXPECT_FALSE(Fills(spec.inputs[1], kBucket, {&one.tensors(), 1}));
  const std::vector<QueryTensors> both = {one.tensors(), three.tensors()};
  EXPECT_TRUE(Fills(spec.inputs[0], kBucket, both));
  EXPECT_TRUE(CanBePadded(spec.inputs[1], kBucket));
  EXPECT_FALSE(CanBePadded(spec.inputs[1], {1, 5}));
  EXPECT_TRUE(CanBePadded(spec.inputs[0], {1, 5}));
}

TEST(JobRowsTest, KnowsHowFarAJobFillsATensorWithoutAGap) {
  const ModelSpec spec = MakeSpec();
  Query one(1, 5, "abcde", "AA"), two(2, 5, "abcdefghij", "AABB"), narrow(1, 3, "abc", "AA");
  const auto filled = [&](size_t input, std::vector<QueryTensors> job) {
    return FilledBytes(spec.inputs[input], kBucket, job);
  };
  EXPECT_EQ(filled(0, {one.tensors()}), 5u);
  EXPECT_EQ(filled(0, {one.tensors(), two.tensors()}), 15u);
  EXPECT_EQ(filled(0, {two.tensors(), one.tensors(), one.tensors()}), 20u) << "all";
  EXPECT_EQ(filled(0, {narrow.tensors(), one.tensors()}), 3u);
  EXPECT_EQ(filled(0, {two.tensors(), narrow.tensors(), one.tensors()}), 13u);
  EXPECT_EQ(filled(1, {two.tensors(), narrow.tensors()}), 6u) << "it has no sequence";
  EXPECT_EQ(RowsOf(std::vector{two.tensors(), narrow.tensors()}), 3);
}

TEST(JobRowsTest, RefusesWhatDoesNotFit) {
  const auto refused = [](const QueryTensors& query, const ModelSpec& spec = MakeSpec()) {
    const Status status = CheckJob(spec, kBucket, {&query, 1});
    return status.code() == StatusCode::kInternal;
  };
  Query query(1, 3, "abc", "AA");
  EXPECT_TRUE(CheckJob(MakeSpec(), kBucket, {}).ok()) << "a synthetic job";
  EXPECT_FALSE(refused(query.tensors()));
  QueryTensors bad = query.tensors();
  bad.rows = 5;
  EXPECT_TRUE(refused(bad));
  bad.rows = 0;
  EXPECT_TRUE(refused(bad));
  bad = query.tensors();
  bad.sequence = 6;
  EXPECT_TRUE(refused(bad));
  bad.sequence = 0;
  EXPECT_TRUE(refused(bad));
  bad = query.tensors();
  bad.inputs = bad.inputs.first(1);
  EXPECT_TRUE(refused(bad));
  bad = query.tensors();
  bad.outputs = {};
  EXPECT_TRUE(refused(bad));

  ModelSpec shared = MakeSpec();
  shared.outputs[0].dims = {1};
  EXPECT_FALSE(refused(query.tensors(), shared));
  const std::vector<QueryTensors> two = {query.tensors(), query.tensors()};
  EXPECT_TRUE(CheckJob(MakeSpec(), kBucket, two).ok());
  EXPECT_FALSE(CheckJob(shared, kBucket, two).ok()) << "whose output would it be?";
  ModelSpec dependent = MakeSpec();
  dependent.batchable = false;
  EXPECT_FALSE(CheckJob(dependent, kBucket, two).ok()) << "one would change the other's answer";
}

}  // namespace
}  // namespace abacus
