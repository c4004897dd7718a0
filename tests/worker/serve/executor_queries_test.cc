// Jobs of several queries: the table that names them, their tensors, and what is refused.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/worker/serve/executor_fixture.h"

namespace abacus {
namespace {

using test::BatchRuntime;
using test::ExecutorTest;
using test::kArenaBytes;
using test::kBlockBytes;
using test::TextExecutorTest;

TEST_F(ExecutorTest, HandsOverEveryQueryInTheOrderOfTheTable) {
  const std::vector<JobQuery> queries = {{5 * kBlockBytes, kBlockBytes, 1, 0, 0, 1},
                                         {0, 2 * kBlockBytes, 2, 0, 0, 2},
                                         {kArenaBytes - kBlockBytes, kBlockBytes, 1, 0, 0, 1}};
  EXPECT_TRUE(Ok(Do(Job(queries))));
  EXPECT_TRUE(Ok(Do(Range(2, 0, 10)))) << "the other table, a smaller job";
  ASSERT_EQ(runtime_.calls.size(), 2u);
  EXPECT_EQ(runtime_.calls[0].queries, (std::vector{Seen(queries[0]), Seen(queries[1]), Seen(queries[2])}));
  EXPECT_EQ(runtime_.calls[1].queries, std::vector{Seen({0, kBlockBytes, 1, 0, 0, 1})});
}

TEST_F(ExecutorTest, EachQueryGetsTheOutputsOfItsRows) {
  BatchRuntime runtime(spec_);
  executor_ = std::make_unique<Executor>(region_.get(), kWorker, spec_, &runtime);
  const std::vector<JobQuery> queries = {
      {2 * kBlockBytes, kBlockBytes, 2, 0, 0, 2}, {0, kBlockBytes, 1, 0, 0, 1}, {kBlockBytes, kBlockBytes, 1, 0, 0, 1}};
  for (size_t q = 0; q < queries.size(); ++q) {
    for (uint32_t i = 0; i < queries[q].rows * 4; ++i) {
      Floats(queries[q].block_offset)[i] = static_cast<float>(100 * (q + 1) + i);
    }
  }
  Command command = Job(queries);
  for (const auto& [first, last] : {std::pair{0u, 4u}, {4u, 10u}}) {
    command.first = first;
    command.last = last;
    EXPECT_TRUE(Ok(Do(command)));
  }
  size_t row = 0;
  for (size_t q = 0; q < queries.size(); ++q) {
    const TensorLayout layout = LayoutOf(spec_, queries[q].rows, 0);
    const float* const x = Floats(queries[q].block_offset);
    const float* const y = Floats(queries[q].block_offset + layout.outputs[0].offset_bytes);
    for (uint32_t i = 0; i < queries[q].rows * 4; ++i) {
      EXPECT_EQ(x[i], static_cast<float>(100 * (q + 1) + i)) << "inputs stay";
      EXPECT_EQ(y[i], 10 * x[i] + static_cast<float>(row + i / 4)) << "query " << q << ", element " << i;
    }
    row += queries[q].rows;
  }
}

TEST_F(TextExecutorTest, QueriesHaveLengthsOfTheirOwn) {
  const std::vector<JobQuery> queries = {{0, kBlockBytes, 1, 3, 0, 1}, {kBlockBytes, kBlockBytes, 1, 8, 0, 1}};
  EXPECT_TRUE(Ok(Do(Job(queries))));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_EQ(runtime_.calls[0].queries, (std::vector{Seen(queries[0]), Seen(queries[1])}));
}

TEST_F(ExecutorTest, AJobMayHaveAsManyQueriesAsATableHolds) {
  ModelSpec wide = spec_;
  wide.batch_sizes = {kMaxJobQueries};
  executor_ = std::make_unique<Executor>(region_.get(), kWorker, wide, &runtime_);
  Command command = Job(std::vector<JobQuery>(kMaxJobQueries, {0, kBlockBytes, 1, 0, 0, 1}));
  command.bucket = 0;
  EXPECT_TRUE(Ok(Do(command)));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_EQ(runtime_.calls[0].queries.size(), kMaxJobQueries);
}

TEST_F(ExecutorTest, RefusesEveryBadTable) {
  const uint64_t need_bytes = LayoutOf(spec_, 2, 0).total_bytes;
  const JobQuery good{0, kBlockBytes, 1, 0, 0, 1};
  const std::vector<std::pair<std::string, std::vector<JobQuery>>> tables = {
      {"no query", {}},
      {"no row", {{0, kBlockBytes, 0, 0, 0, 0}}},
      {"more rows than the bucket", {{0, kBlockBytes, 5, 0, 0, 5}}},
      {"more rows together", {good, good, {0, kBlockBytes, 3, 0, 0, 3}}},
      {"a sum of rows that wraps around", {good, {0, kBlockBytes, UINT32_MAX, 0, 0, UINT32_MAX}}},
      {"no row behind a full batch", {{0, kBlockBytes, 4, 0, 0, 4}, {0, kBlockBytes, 0, 0, 0, 0}}},
      {"a length for a model without", {{0, kBlockBytes, 1, 1, 0, 1}}},
      {"a block that is too small", {{0, need_bytes - 1, 2, 0, 0, 2}}},
      {"a block of no bytes", {{0, 0, 1, 0, 0, 1}}},
      {"a block that ends outside the arena", {{kArenaBytes - kBlockBytes + 1, kBlockBytes, 1, 0, 0, 1}}},
      {"a block that begins outside", {{kArenaBytes + 1, kBlockBytes, 1, 0, 0, 1}}},
      {"a block that wraps around", {{UINT64_MAX - 100, kBlockBytes, 1, 0, 0, 1}}},
      {"a block larger than the arena", {{0, kArenaBytes + 1, 1, 0, 0, 1}}},
      {"a block without end", {{0, UINT64_MAX, 1, 0, 0, 1}}},
      {"fewer rows in the block than the batch takes", {{0, kBlockBytes, 2, 0, 0, 1}}},
      {"no rows in the block", {{0, kBlockBytes, 1, 0, 0, 0}}},
      {"a part behind the query's rows", {{0, kBlockBytes, 2, 0, 3, 4}}},
      {"a part that begins behind them", {{0, kBlockBytes, 1, 0, 4, 4}}},
      {"a part whose end wraps around", {{0, kBlockBytes, 2, 0, UINT32_MAX, 4}}},
      {"a part whose end wraps around to the query's last row", {{0, kBlockBytes, 4, 0, UINT32_MAX - 1, 2}}},
      {"a block without room for the query's other rows", {{0, need_bytes, 2, 0, 0, 17}}},
      {"more rows than a query may have", {{0, kArenaBytes, 1, 0, 0, 4 * kMaxQueryParts + 1}}},
      {"more rows than there are bytes for", {{0, kArenaBytes, 1, 0, 0, UINT32_MAX}}},
      {"only the last part bad", {good, {0, kBlockBytes, 1, 0, 1, 2}, {0, kBlockBytes, 1, 0, 2, 2}}},
      {"only the last one bad", {good, good, {kArenaBytes, kBlockBytes, 1, 0, 0, 1}}},
  };
  for (const auto& [what, table] : tables) EXPECT_FALSE(Ok(Do(Job(table)))) << what;

  Command command = Job({good});
  for (const uint32_t bad : {uint32_t{kMaxSent}, UINT32_MAX}) {
    command.query_table = bad;
    EXPECT_FALSE(Ok(Do(command))) << "table " << bad;
  }
  command = Job({good});
  for (const uint32_t bad : {uint32_t{kMaxJobQueries} + 1, UINT32_MAX}) {
    command.query_count = bad;
    EXPECT_FALSE(Ok(Do(command))) << bad << " queries";
  }
  command = Job({good});
  command.flags = Command::kSynthetic;
  EXPECT_FALSE(Ok(Do(command))) << "synthetic, with a query";

  EXPECT_TRUE(runtime_.calls.empty()) << "a refused command must not reach the runtime";
  EXPECT_TRUE(Ok(Do(Job({good, {kBlockBytes, need_bytes, 2, 0, 0, 2}, good}))))
      << "a full batch, blocks just large enough";
}

TEST_F(ExecutorTest, PartsOfAQueryAreBoundToTheirRows) {
  BatchRuntime runtime(spec_);
  executor_ = std::make_unique<Executor>(region_.get(), kWorker, spec_, &runtime);
  constexpr uint32_t kRows = 5;  // more than the largest bucket has
  const TensorLayout whole = LayoutOf(spec_, kRows, 0);
  float* const x = Floats(0);
  float* const y = Floats(whole.outputs[0].offset_bytes);
  const auto from = [](uint32_t first_row, uint32_t rows) {
    return JobQuery{0, kBlockBytes, rows, 0, first_row, kRows};
  };
  for (uint32_t i = 0; i < kRows * 4; ++i) x[i] = static_cast<float>(i), y[i] = -1;
  EXPECT_TRUE(Ok(Do(Job({from(1, 3)}))));
  for (uint32_t i = 0; i < kRows * 4; ++i) {
    const uint32_t row = i / 4;
    const bool ran = row >= 1 && row < 4;
    EXPECT_EQ(y[i], ran ? 10 * x[i] + static_cast<float>(row - 1) : -1) << "element " << i;
    EXPECT_EQ(x[i], static_cast<float>(i));
  }
  EXPECT_TRUE(Ok(Do(Job({from(4, 1), {kBlockBytes, kBlockBytes, 1, 0, 0, 1}, from(0, 1)}))))
      << "the rest, in any order";
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(y[16 + i], 10 * x[16 + i]);
    EXPECT_EQ(y[i], 10 * x[i] + 2);
    EXPECT_EQ(y[4 + i], 10 * x[4 + i]) << "as before";
  }
}

TEST_F(ExecutorTest, AQueryMayHaveAsManyRowsAsItsPartsMayAltogether) {
  const auto rows = static_cast<uint32_t>(4 * kMaxQueryParts);
  const uint64_t bytes = LayoutOf(spec_, rows, 0).total_bytes;
  ASSERT_LE(bytes, kArenaBytes);
  EXPECT_TRUE(Ok(Do(Job({{0, bytes, 4, 0, rows - 4, rows}}))));
  EXPECT_FALSE(Ok(Do(Job({{0, bytes - 1, 4, 0, 0, rows}})))) << "a block that is too small";
  EXPECT_EQ(runtime_.calls.size(), 1u);
}

// What the model does not allow would give wrong answers, not errors.
class ClaimsExecutorTest : public ExecutorTest {
 protected:
  void Use(const ModelSpec& spec) {
    claimed_ = spec;
    executor_ = std::make_unique<Executor>(region_.get(), kWorker, claimed_, &runtime_);
  }
  static constexpr JobQuery Rows(uint32_t rows, uint32_t query_rows) {
    return {0, kBlockBytes, rows, 0, 0, query_rows};
  }

  ModelSpec claimed_;
};

TEST_F(ClaimsExecutorTest, RowsThatDependOnEachOtherAreOneQueryWithoutPadding) {
  ModelSpec spec = spec_;
  spec.batchable = false;
  Use(spec);
  EXPECT_FALSE(Ok(Do(Job({Rows(2, 2), Rows(2, 2)})))) << "two queries";
  EXPECT_FALSE(Ok(Do(Job({Rows(3, 3)})))) << "a padded batch";
  EXPECT_FALSE(Ok(Do(Job({Rows(4, 8)})))) << "a part";
  EXPECT_TRUE(runtime_.calls.empty());
  EXPECT_TRUE(Ok(Do(Job({Rows(4, 4)}))));
}

TEST_F(ClaimsExecutorTest, AnInputWithoutRowsIsOneQuerys) {
  ModelSpec spec = spec_;
  spec.inputs.push_back({"scale", DType::kFloat32, Shape{1}, {}, 0});
  Use(spec);
  EXPECT_FALSE(Ok(Do(Job({Rows(1, 1), Rows(1, 1)}))));
  EXPECT_TRUE(runtime_.calls.empty());
  const JobQuery part = {0, kBlockBytes, 2, 0, 3, 5};
  EXPECT_TRUE(Ok(Do(Job({part}))));
  const TensorLayout whole = LayoutOf(spec, 5, 0);
  ASSERT_EQ(runtime_.calls.size(), 1u);
  const std::byte* const block = region_->arena().data();
  EXPECT_EQ(runtime_.calls[0].queries[0].inputs, (std::vector{block + 3 * 16, block + whole.inputs[1].offset_bytes}))
      << "every part reads all of it";
}

TEST_F(ClaimsExecutorTest, AnOutputWithoutRowsHasNoParts) {
  ModelSpec spec = spec_;
  spec.outputs.push_back({"count", DType::kFloat32, Shape{1}, {}, 0});
  Use(spec);
  EXPECT_FALSE(Ok(Do(Job({Rows(2, 3)}))));
  EXPECT_FALSE(Ok(Do(Job({Rows(1, 1), Rows(1, 1)}))));
  EXPECT_TRUE(Ok(Do(Job({Rows(3, 3)}))));
}

TEST_F(TextExecutorTest, LengthsAreExactWherePaddingChangesTheAnswers) {
  ModelSpec exact = spec_;
  exact.sequence_padding = SequencePadding::kExact;
  executor_ = std::make_unique<Executor>(region_.get(), kWorker, exact, &runtime_);
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, 8, 0, 1}, {kBlockBytes, kBlockBytes, 1, 7, 0, 1}}))));
  EXPECT_TRUE(runtime_.calls.empty());
  EXPECT_TRUE(Ok(Do(Job({{0, kBlockBytes, 1, 8, 0, 1}, {kBlockBytes, kBlockBytes, 1, 8, 0, 1}}))));
}

TEST_F(TextExecutorTest, RefusesLengthsThatTheBucketLacks) {
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, 0, 0, 1}}))));
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, 9, 0, 1}}))));
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, UINT32_MAX, 0, 1}}))));
  Command command = Job({{0, kBlockBytes, 1, 5, 0, 1}});
  command.bucket = 0;  // of length 4
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(runtime_.calls.empty());
}

TEST_F(ExecutorTest, ABadTableOfALaterRangeChangesNothing) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  slot().queries[0][0].block_offset = kArenaBytes;
  EXPECT_FALSE(Ok(Do(Range(1, 4, 10))));
  slot().queries[0][0].block_offset = 0;
  EXPECT_TRUE(Ok(Do(Range(1, 4, 10))));
  EXPECT_EQ(runtime_.calls.size(), 2u);
}

TEST_F(ExecutorTest, ATableThatChangesAfterItsCommandWasTakenHasNoEffect) {
  const std::vector<JobQuery> queries = {{0, kBlockBytes, 1, 0, 0, 1}, {kBlockBytes, kBlockBytes, 2, 0, 0, 2}};
  Command command = Job(queries);
  command.gate = 1;
  Send(command);
  EXPECT_TRUE(executor_->DoWork()) << "taken, and waits for its gate";
  EXPECT_TRUE(runtime_.calls.empty());
  for (auto& table : slot().queries) table.fill({UINT64_MAX - 100, UINT64_MAX, 1000, 7, 0, 1000});
  gate().Open(1);
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(Ok(Answered().value()));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_EQ(runtime_.calls[0].queries, (std::vector{Seen(queries[0]), Seen(queries[1])}));
}

}  // namespace
}  // namespace abacus
