// Jobs of several queries: the table that names them, their tensors, and what is refused.
#include <gtest/gtest.h>

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
  const std::vector<JobQuery> queries = {
      {5 * kBlockBytes, kBlockBytes, 1, 0}, {0, 2 * kBlockBytes, 2, 0}, {kArenaBytes - kBlockBytes, kBlockBytes, 1, 0}};
  EXPECT_TRUE(Ok(Do(Job(queries))));
  EXPECT_TRUE(Ok(Do(Range(2, 0, 10)))) << "the other table, a smaller job";
  ASSERT_EQ(runtime_.calls.size(), 2u);
  EXPECT_EQ(runtime_.calls[0].queries, (std::vector{Seen(queries[0]), Seen(queries[1]), Seen(queries[2])}));
  EXPECT_EQ(runtime_.calls[1].queries, std::vector{Seen({0, kBlockBytes, 1, 0})});
}

TEST_F(ExecutorTest, EachQueryGetsTheOutputsOfItsRows) {
  BatchRuntime runtime(spec_);
  executor_ = std::make_unique<Executor>(region_.get(), kWorker, spec_, &runtime);
  const std::vector<JobQuery> queries = {
      {2 * kBlockBytes, kBlockBytes, 2, 0}, {0, kBlockBytes, 1, 0}, {kBlockBytes, kBlockBytes, 1, 0}};
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
  const std::vector<JobQuery> queries = {{0, kBlockBytes, 1, 3}, {kBlockBytes, kBlockBytes, 1, 8}};
  EXPECT_TRUE(Ok(Do(Job(queries))));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_EQ(runtime_.calls[0].queries, (std::vector{Seen(queries[0]), Seen(queries[1])}));
}

TEST_F(ExecutorTest, AJobMayHaveAsManyQueriesAsATableHolds) {
  ModelSpec wide = spec_;
  wide.batch_sizes = {kMaxJobQueries};
  executor_ = std::make_unique<Executor>(region_.get(), kWorker, wide, &runtime_);
  Command command = Job(std::vector<JobQuery>(kMaxJobQueries, {0, kBlockBytes, 1, 0}));
  command.bucket = 0;
  EXPECT_TRUE(Ok(Do(command)));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_EQ(runtime_.calls[0].queries.size(), kMaxJobQueries);
}

TEST_F(ExecutorTest, RefusesEveryBadTable) {
  const uint64_t need_bytes = LayoutOf(spec_, 2, 0).total_bytes;
  const JobQuery good{0, kBlockBytes, 1, 0};
  const std::vector<std::pair<std::string, std::vector<JobQuery>>> tables = {
      {"no query", {}},
      {"no row", {{0, kBlockBytes, 0, 0}}},
      {"more rows than the bucket", {{0, kBlockBytes, 5, 0}}},
      {"more rows together", {good, good, {0, kBlockBytes, 3, 0}}},
      {"a sum of rows that wraps around", {good, {0, kBlockBytes, UINT32_MAX, 0}}},
      {"no row behind a full batch", {{0, kBlockBytes, 4, 0}, {0, kBlockBytes, 0, 0}}},
      {"a length for a model without", {{0, kBlockBytes, 1, 1}}},
      {"a block that is too small", {{0, need_bytes - 1, 2, 0}}},
      {"a block of no bytes", {{0, 0, 1, 0}}},
      {"a block that ends outside the arena", {{kArenaBytes - kBlockBytes + 1, kBlockBytes, 1, 0}}},
      {"a block that begins outside", {{kArenaBytes + 1, kBlockBytes, 1, 0}}},
      {"a block that wraps around", {{UINT64_MAX - 100, kBlockBytes, 1, 0}}},
      {"a block larger than the arena", {{0, kArenaBytes + 1, 1, 0}}},
      {"a block without end", {{0, UINT64_MAX, 1, 0}}},
      {"only the last one bad", {good, good, {kArenaBytes, kBlockBytes, 1, 0}}},
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
  EXPECT_TRUE(Ok(Do(Job({good, {kBlockBytes, need_bytes, 2, 0}, good})))) << "a full batch, blocks just large enough";
}

TEST_F(TextExecutorTest, RefusesLengthsThatTheBucketLacks) {
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, 0}}))));
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, 9}}))));
  EXPECT_FALSE(Ok(Do(Job({{0, kBlockBytes, 1, UINT32_MAX}}))));
  Command command = Job({{0, kBlockBytes, 1, 5}});
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
  const std::vector<JobQuery> queries = {{0, kBlockBytes, 1, 0}, {kBlockBytes, kBlockBytes, 2, 0}};
  Command command = Job(queries);
  command.gate = 1;
  Send(command);
  EXPECT_TRUE(executor_->DoWork()) << "taken, and waits for its gate";
  EXPECT_TRUE(runtime_.calls.empty());
  for (auto& table : slot().queries) table.fill({UINT64_MAX - 100, UINT64_MAX, 1000, 7});
  gate().Open(1);
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(Ok(Answered().value()));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_EQ(runtime_.calls[0].queries, (std::vector{Seen(queries[0]), Seen(queries[1])}));
}

}  // namespace
}  // namespace abacus
