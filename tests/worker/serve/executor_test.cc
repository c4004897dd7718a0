#include "worker/serve/executor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "models/tensor_layout.h"
#include "tests/support/specs.h"
#include "tests/worker/serve/scripted_runtimes.h"

namespace abacus {
namespace {

using test::BatchRuntime;
using test::ScriptedRuntime;

constexpr uint64_t kArenaBytes = 1 << 20;
constexpr uint64_t kBlockBytes = 4096;

// The worker has slot 3 and lane 1 of a segment with two lanes. Unless a test says otherwise, both of its tables name
// one query of one row in the first block of the arena.
class ExecutorTest : public testing::Test {
 protected:
  explicit ExecutorTest(ModelSpec spec = test::ImageSpec(), uint32_t sequence = 0) : spec_(std::move(spec)) {
    region_ = Region::Create("exec-" + std::to_string(getpid()), {.services = 1, .lanes = 2}, kArenaBytes).value();
    slot().lane = 1;
    for (auto& table : slot().queries) table[0] = {0, kBlockBytes, 1, sequence};
    executor_ = std::make_unique<Executor>(region_.get(), kWorker, spec_, &runtime_);
  }
  WorkerSlot& slot() { return region_->worker(kWorker); }

  Completion Do(const Command& command) {
    EXPECT_TRUE(slot().commands.TryPush(command));
    EXPECT_TRUE(executor_->DoWork());
    Completion completion;
    EXPECT_TRUE(slot().completions.TryPop(&completion)) << "exactly one completion per command";
    Completion extra;
    EXPECT_FALSE(slot().completions.TryPop(&extra));
    return completion;
  }
  void Send(Command command) { ASSERT_TRUE(slot().commands.TryPush(command)); }
  std::optional<Completion> Answered() {
    Completion completion;
    return slot().completions.TryPop(&completion) ? std::optional(completion) : std::nullopt;
  }
  void HoldOnDevice() {
    runtime_.asynchronous = true;
    ASSERT_TRUE(executor_->HoldOnDevice().ok());
  }
  static Command Range(uint64_t job, uint32_t first, uint32_t last, uint32_t gate = 0) {
    Command command;
    command.kind = Command::kRun;
    command.gate = gate;
    command.job_id = job;
    command.first = first;
    command.last = last;
    command.query_count = 1;
    return command;
  }
  // A whole job of these queries, in the largest bucket.
  Command Job(const std::vector<JobQuery>& queries) {
    Command command = Range(1, 0, 10);
    command.bucket = static_cast<uint32_t>(spec_.bucket_count() - 1);
    command.query_table = 1;
    command.query_count = static_cast<uint32_t>(queries.size());
    std::copy(queries.begin(), queries.end(), slot().queries[1].begin());
    return command;
  }
  // What the runtime should see of a query.
  ScriptedRuntime::Query Seen(const JobQuery& query) const {
    const TensorLayout layout = LayoutOf(spec_, query.rows, query.sequence);
    ScriptedRuntime::Query seen{query.rows, query.sequence, {}, {}};
    std::byte* const block = region_->arena().data() + query.block_offset;
    for (const TensorExtent& extent : layout.inputs) seen.inputs.push_back(block + extent.offset_bytes);
    for (const TensorExtent& extent : layout.outputs) seen.outputs.push_back(block + extent.offset_bytes);
    return seen;
  }
  float* Floats(uint64_t arena_offset) const {
    return reinterpret_cast<float*>(region_->arena().data() + arena_offset);
  }
  static bool Ok(const Completion& completion) { return completion.status == 0; }

  GateWord* gate_word() { return &region_->lane(LaneId(1)).gate; }
  Gate gate() { return Gate(gate_word()); }

  static constexpr WorkerId kWorker{3};
  const ModelSpec spec_;
  ScriptedRuntime runtime_;
  std::unique_ptr<Region> region_;
  std::unique_ptr<Executor> executor_;
};

// int64 [batch, sequence]; the largest bucket has two rows of length 8.
class TextExecutorTest : public ExecutorTest {
 protected:
  TextExecutorTest() : ExecutorTest(test::TextSpec(), 4) {}
};

TEST_F(ExecutorTest, RunsConsecutiveRangesOfAJob) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_TRUE(Ok(Do(Range(1, 4, 7))));
  const Completion last = Do(Range(1, 7, 10));
  EXPECT_TRUE(Ok(last));
  EXPECT_EQ(last.job_id, 1u);
  EXPECT_EQ(last.first, 7u);
  EXPECT_EQ(last.last, 10u);
  EXPECT_GE(last.ended_ns, last.started_ns);
  ASSERT_EQ(runtime_.calls.size(), 3u);
  EXPECT_EQ(runtime_.calls[0].bucket, 0u);
  EXPECT_EQ(runtime_.calls[0].first, 0u);
  EXPECT_EQ(runtime_.calls[0].last, 4u);
  for (const ScriptedRuntime::Call& call : runtime_.calls) {
    EXPECT_EQ(call.queries, std::vector{Seen({0, kBlockBytes, 1, 0})});
  }
}

TEST_F(ExecutorTest, RefusesARangeWithoutItsPrefix) {
  EXPECT_FALSE(Ok(Do(Range(1, 4, 7))));  // never started
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_FALSE(Ok(Do(Range(1, 7, 10))));  // a gap
  EXPECT_FALSE(Ok(Do(Range(2, 4, 7))));   // another job
  EXPECT_EQ(runtime_.calls.size(), 1u) << "a refused range must not reach the runtime";
  EXPECT_TRUE(Ok(Do(Range(1, 4, 10)))) << "a refused command changes nothing";
}

TEST_F(ExecutorTest, ANewJobAbandonsTheOneBefore) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_TRUE(Ok(Do(Range(2, 0, 4))));
  EXPECT_FALSE(Ok(Do(Range(1, 4, 7))));
  EXPECT_TRUE(Ok(Do(Range(2, 4, 10))));
}

TEST_F(ExecutorTest, AFailedRangeEndsItsJob) {
  runtime_.result = Status(StatusCode::kWorkerFailed, "boom");
  const Completion failed = Do(Range(1, 0, 4));
  EXPECT_EQ(failed.status, static_cast<uint32_t>(StatusCode::kWorkerFailed));
  EXPECT_EQ(LoadText(slot().error), "boom");
  runtime_.result = Status::Ok();
  EXPECT_FALSE(Ok(Do(Range(1, 4, 7))));
}

TEST_F(ExecutorTest, RefusesNonsense) {
  EXPECT_FALSE(Ok(Do(Range(1, 0, 5))));  // not a cut point
  EXPECT_FALSE(Ok(Do(Range(1, 0, 11))));
  EXPECT_FALSE(Ok(Do(Range(1, 0, 0))));
  Command command = Range(1, 0, 4);
  command.bucket = 3;
  EXPECT_FALSE(Ok(Do(command)));
  command = Range(1, 0, 4);
  command.kind = 7;
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(runtime_.calls.empty());
}

TEST_F(ExecutorTest, ASyntheticJobHasNoTensors) {
  Command command = Range(1, 0, 10);
  command.flags = Command::kSynthetic;
  command.query_count = 0;
  EXPECT_TRUE(Ok(Do(command)));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_TRUE(runtime_.calls[0].queries.empty());
}

TEST_F(ExecutorTest, ARangeContinuesInItsBucketOnly) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  Command command = Range(1, 4, 7);
  command.bucket = 1;
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(Ok(Do(Range(1, 4, 10))));
  EXPECT_FALSE(Ok(Do(Range(1, 4, 10)))) << "the job is complete";
}

TEST_F(ExecutorTest, AFatalErrorEndsServing) {
  runtime_.result = Status(StatusCode::kWorkerFailed, "the GPU is gone");
  runtime_.fatal = true;
  Send(Range(1, 0, 4));
  const std::atomic<bool> stop{false};
  EXPECT_FALSE(executor_->Serve(stop, 0).ok());
  Completion completion;
  ASSERT_TRUE(slot().completions.TryPop(&completion));
  EXPECT_EQ(completion.fatal, 1u);
}

TEST_F(ExecutorTest, StopEndsServing) {
  Command command;
  command.kind = Command::kStop;
  ASSERT_TRUE(slot().commands.TryPush(command));
  const std::atomic<bool> stop{false};
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  EXPECT_GT(slot().heartbeat_ns.load(), 0u);
}

TEST_F(ExecutorTest, PublishesItsRanges) {
  executor_->PublishRanges("the digest");
  for (uint32_t b = 0; b < 3; ++b) {
    EXPECT_EQ(slot().ranges[b].operators, 10u);
    EXPECT_EQ(slot().ranges[b].cut_count, 4u);
    EXPECT_EQ(slot().ranges[b].cuts[2], 7u);
    EXPECT_EQ(slot().ranges[b].solo_ns, 1000u);
  }
  EXPECT_EQ(LoadText(slot().device_name), "scripted device");
  EXPECT_EQ(LoadText(slot().libraries), "none");
  EXPECT_EQ(LoadText(slot().structure), "scripted structure");
  EXPECT_EQ(LoadText(slot().measured_digest), "the digest");
}

// --- Jobs of several queries ---------------------------------------------------------------------------------------

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

// --- Rounds sent ahead ---------------------------------------------------------------------------------------------

TEST_F(ExecutorTest, HoldsARangeUntilItsGateOpens) {
  EXPECT_FALSE(executor_->HoldOnDevice().ok()) << "this runtime cannot";
  Send(Range(1, 0, 4, 1));
  Send(Range(2, 0, 4, 1));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_FALSE(executor_->DoWork());
  EXPECT_TRUE(runtime_.calls.empty());
  EXPECT_EQ(slot().commands.size(), 1u) << "one at a time where the executor waits";
  Gate(&region_->lane(LaneId(0)).gate).Open(1);
  EXPECT_FALSE(executor_->DoWork()) << "the gate of another lane";
  const uint64_t opened_ns = MonotonicNs();
  gate().Open(1);
  EXPECT_TRUE(executor_->DoWork());
  const std::optional<Completion> first = Answered();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->job_id, 1u);
  EXPECT_GE(first->started_ns, opened_ns);
  EXPECT_EQ(runtime_.calls.back().gate, 0u);
  EXPECT_TRUE(executor_->DoWork()) << "the next one's gate is open already";
  EXPECT_TRUE(Answered());
}

TEST_F(ExecutorTest, ServeWakesWhenTheGateOpens) {
  Send(Range(1, 0, 10, 7));
  std::atomic<bool> stop{false};
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    gate().Open(6);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(slot().completions.size(), 0u);
    gate().Open(7);
    Command command;
    command.kind = Command::kStop;
    ASSERT_TRUE(slot().commands.TryPush(command));
    Doorbell(&slot().command_bell).Ring();
  });
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  opener.join();
  const std::optional<Completion> completion = Answered();
  ASSERT_TRUE(completion);
  EXPECT_TRUE(Ok(*completion));
}

TEST_F(ExecutorTest, ARangeThatNeverMayStartIsAnsweredAtTheStop) {
  Send(Range(1, 0, 10, 7));
  EXPECT_TRUE(executor_->DoWork());
  const std::atomic<bool> stop{true};
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  const std::optional<Completion> completion = Answered();
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->status, static_cast<uint32_t>(StatusCode::kShuttingDown));
  EXPECT_TRUE(runtime_.calls.empty());
}

TEST_F(ExecutorTest, KeepsTwoRangesOnTheDevice) {
  HoldOnDevice();
  EXPECT_EQ(runtime_.used_gate, gate_word());
  Send(Range(1, 0, 4, 1));
  Send(Range(1, 4, 7, 2));
  Send(Range(2, 0, 10, 3));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_FALSE(executor_->DoWork());
  ASSERT_EQ(runtime_.calls.size(), 2u);
  EXPECT_EQ(runtime_.calls[0].gate, 1u);
  EXPECT_EQ(runtime_.calls[1].gate, 2u);
  EXPECT_FALSE(Answered());

  gate().Open(1);
  const uint64_t opened_ns = MonotonicNs();
  EXPECT_FALSE(executor_->DoWork());
  runtime_.ends.emplace_back();
  EXPECT_TRUE(executor_->DoWork());
  const std::optional<Completion> first = Answered();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->last, 4u);
  EXPECT_GE(first->started_ns, opened_ns) << "the wait at the gate does not count";
  EXPECT_EQ(first->gpu_ended_ns - first->gpu_started_ns, 100u);

  EXPECT_TRUE(executor_->DoWork());  // room for the third
  EXPECT_EQ(runtime_.calls.size(), 3u);
  gate().Open(3);
  runtime_.ends.resize(2);
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(executor_->DoWork());
  const std::optional<Completion> second = Answered(), third = Answered();
  ASSERT_TRUE(second && third);
  EXPECT_EQ(second->first, 4u);
  EXPECT_EQ(third->job_id, 2u);
  EXPECT_GE(third->started_ns, second->ended_ns) << "busy times do not overlap";
}

TEST_F(ExecutorTest, AFailedRangeFailsTheOneBehindIt) {
  HoldOnDevice();
  Send(Range(1, 0, 4));
  Send(Range(1, 4, 7));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(executor_->DoWork());
  runtime_.ends.emplace_back(StatusCode::kWorkerFailed, "boom");
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_FALSE(executor_->DoWork()) << "the second is still on the device";
  Send(Range(1, 7, 10));
  Send(Range(2, 0, 4));
  EXPECT_TRUE(executor_->DoWork());
  runtime_.ends.resize(2);
  for (int i = 0; i < 4; ++i) executor_->DoWork();
  std::vector<uint32_t> statuses;
  while (const std::optional<Completion> completion = Answered()) statuses.push_back(completion->status);
  const auto failed = static_cast<uint32_t>(StatusCode::kWorkerFailed);
  const auto refused = static_cast<uint32_t>(StatusCode::kInternal);
  EXPECT_EQ(statuses, (std::vector<uint32_t>{failed, failed, refused, 0}));
}

TEST_F(ExecutorTest, AFailedRangeSparesAnotherJob) {
  HoldOnDevice();
  Send(Range(1, 0, 4));
  Send(Range(2, 0, 4));
  Send(Range(2, 4, 10));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(executor_->DoWork());
  runtime_.ends.emplace_back(StatusCode::kWorkerFailed, "boom");
  runtime_.ends.resize(3);
  while (executor_->DoWork()) {
  }
  EXPECT_FALSE(Ok(Answered().value()));
  EXPECT_TRUE(Ok(Answered().value()));
  EXPECT_TRUE(Ok(Answered().value()));
}

TEST_F(ExecutorTest, ARefusedCommandIsAnsweredInItsTurn) {
  HoldOnDevice();
  Send(Range(1, 0, 4));
  Send(Range(1, 7, 10));  // skips [4, 7)
  Send(Range(1, 4, 10));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_FALSE(Answered());
  runtime_.ends.resize(2);
  while (executor_->DoWork()) {
  }
  EXPECT_TRUE(Ok(Answered().value()));
  EXPECT_FALSE(Ok(Answered().value()));
  EXPECT_TRUE(Ok(Answered().value()));
}

TEST_F(ExecutorTest, AFatalErrorAnswersEverythingOnTheDevice) {
  HoldOnDevice();
  Send(Range(1, 0, 4));
  Send(Range(2, 0, 4));
  Send(Range(3, 0, 4));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_TRUE(executor_->DoWork());
  runtime_.result = Status(StatusCode::kWorkerFailed, "the GPU is gone");
  runtime_.fatal = true;
  const std::atomic<bool> stop{false};
  EXPECT_EQ(executor_->Serve(stop, 0).message(), "the GPU is gone");
  EXPECT_EQ(Answered().value().fatal, 1u);
  EXPECT_EQ(Answered().value().fatal, 1u);
  EXPECT_FALSE(Answered()) << "the third was not taken";
  EXPECT_EQ(runtime_.calls.size(), 2u);
}

TEST_F(ExecutorTest, StopWaitsForWhatWasStarted) {
  HoldOnDevice();
  Send(Range(1, 0, 4));
  Send(Range(1, 4, 10));
  Command command;
  command.kind = Command::kStop;
  Send(command);
  runtime_.end_at_poll = 1000;
  const std::atomic<bool> stop{false};
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  EXPECT_TRUE(Ok(Answered().value()));
  EXPECT_TRUE(Ok(Answered().value()));
  EXPECT_GE(runtime_.polls, 1000u);
}

}  // namespace
}  // namespace abacus
