// An executor of a scripted runtime, and the controller's side of its rings.
#ifndef ABACUS_TESTS_WORKER_SERVE_EXECUTOR_FIXTURE_H_
#define ABACUS_TESTS_WORKER_SERVE_EXECUTOR_FIXTURE_H_

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
#include "worker/serve/executor.h"

namespace abacus::test {

inline constexpr uint64_t kArenaBytes = 1 << 20;
inline constexpr uint64_t kBlockBytes = 4096;

// The worker has slot 3 and lane 1 of a segment with two lanes. Unless a test says otherwise, both of its tables name
// one query of one row in the first block of the arena.
class ExecutorTest : public testing::Test {
 protected:
  explicit ExecutorTest(ModelSpec spec = ImageSpec(), uint32_t sequence = 0) : spec_(std::move(spec)) {
    region_ = Region::Create("exec-" + std::to_string(getpid()), {.services = 1, .lanes = 2}, kArenaBytes).value();
    slot().lane = 1;
    for (auto& table : slot().queries) table[0] = {0, kBlockBytes, 1, sequence, 0, 1};
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
    const TensorLayout layout = PartOf(spec_, query.query_rows, query.sequence, query.first_row, query.rows);
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
  TextExecutorTest() : ExecutorTest(TextSpec(), 4) {}
};

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_SERVE_EXECUTOR_FIXTURE_H_
