#include "worker/executor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <optional>
#include <thread>
#include <vector>

#include "shm/clock.h"
#include "tests/support/specs.h"

namespace abacus {
namespace {

// Records what it is asked to run; fails or turns fatal on demand. Runs ranges inside Start, unless it is asynchronous:
// then they end, in order, as the test says.
class ScriptedRuntime : public ModelRuntime {
 public:
  struct Call {
    uint32_t bucket, first, last;
    size_t inputs, outputs;
    uint32_t gate = 0;
    bool operator==(const Call&) const = default;
  };
  const BucketRanges& ranges(uint32_t) const override { return ranges_; }
  std::string device_name() const override { return "scripted device"; }
  std::string libraries() const override { return "none"; }
  Status Start(const RangeRequest& range) override {
    calls.push_back(
        {range.bucket, range.first, range.last, range.tensors.inputs.size(), range.tensors.outputs.size(), range.gate});
    if (result.ok()) ++outstanding;
    EXPECT_LE(outstanding, asynchronous ? kMaxStarted : 1);
    return result;
  }
  Result<std::optional<DeviceTimes>> Poll() override {
    EXPECT_GT(outstanding, 0u) << "nothing to poll for";
    ++polls;
    if (!asynchronous || fatal || (end_at_poll != 0 && polls >= end_at_poll)) ends.push_back(result);
    if (ends.empty()) return std::nullopt;
    const Status ended = ends.front();
    ends.pop_front();
    --outstanding;
    if (!ended.ok()) return Error(ended);
    return DeviceTimes{100 + polls, 200 + polls};
  }
  Status UseGate(GateWord* gate) override {
    return asynchronous ? (used_gate = gate, Status::Ok()) : ModelRuntime::UseGate(gate);
  }
  bool IsFatal() const override { return fatal; }

  std::vector<Call> calls;
  Status result;  // of Start
  bool fatal = false;
  bool asynchronous = false;
  std::deque<Status> ends;  // results of ranges that have ended and are not yet polled for
  size_t end_at_poll = 0;   // from this poll on every range has ended; 0: only those of `ends`
  size_t outstanding = 0;
  size_t polls = 0;
  GateWord* used_gate = nullptr;

 private:
  const BucketRanges ranges_{10, {0, 4, 7, 10}, 1000};
};

class ExecutorTest : public testing::Test {
 protected:
  ExecutorTest() {
    region_ = Region::Create("exec-" + std::to_string(getpid()), 1, 1 << 20).value();
    executor_ = std::make_unique<Executor>(region_.get(), 0, spec_, &runtime_);
  }
  WorkerBlock& block() { return region_->worker(0); }

  Completion Do(const Command& command) {
    EXPECT_TRUE(block().commands.TryPush(command));
    EXPECT_TRUE(executor_->DoWork());
    Completion completion;
    EXPECT_TRUE(block().completions.TryPop(&completion)) << "exactly one completion per command";
    Completion extra;
    EXPECT_FALSE(block().completions.TryPop(&extra));
    return completion;
  }
  void Send(Command command) { ASSERT_TRUE(block().commands.TryPush(command)); }
  std::optional<Completion> Answered() {
    Completion completion;
    return block().completions.TryPop(&completion) ? std::optional(completion) : std::nullopt;
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
    command.block_bytes = 4096;
    return command;
  }
  static bool Ok(const Completion& completion) { return completion.status == 0; }

  Gate gate() { return Gate(&region_->header().gate); }

  const ModelSpec spec_ = test::ImageSpec();
  ScriptedRuntime runtime_;
  std::unique_ptr<Region> region_;
  std::unique_ptr<Executor> executor_;
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
  EXPECT_EQ(runtime_.calls.size(), 3u);
  EXPECT_EQ(runtime_.calls[0], (ScriptedRuntime::Call{0, 0, 4, 1, 1}));
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
  EXPECT_EQ(LoadText(block().error), "boom");
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
  command.block_bytes = 16;  // smaller than the bucket's tensors
  EXPECT_FALSE(Ok(Do(command)));
  command = Range(1, 0, 4);
  command.block_offset = (1 << 20) - 4095;  // ends outside the arena
  EXPECT_FALSE(Ok(Do(command)));
  command.block_offset = UINT64_MAX - 100;  // wraps around
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(runtime_.calls.empty());
}

TEST_F(ExecutorTest, ASyntheticJobHasNoTensors) {
  Command command = Range(1, 0, 10);
  command.flags = Command::kSynthetic;
  command.block_bytes = 0;
  EXPECT_TRUE(Ok(Do(command)));
  EXPECT_EQ(runtime_.calls[0], (ScriptedRuntime::Call{0, 0, 10, 0, 0}));
}

TEST_F(ExecutorTest, AFatalErrorEndsServing) {
  runtime_.result = Status(StatusCode::kWorkerFailed, "the GPU is gone");
  runtime_.fatal = true;
  Send(Range(1, 0, 4));
  const std::atomic<bool> stop{false};
  EXPECT_FALSE(executor_->Serve(stop, 0).ok());
  Completion completion;
  ASSERT_TRUE(block().completions.TryPop(&completion));
  EXPECT_EQ(completion.fatal, 1u);
}

TEST_F(ExecutorTest, StopEndsServing) {
  Command command;
  command.kind = Command::kStop;
  ASSERT_TRUE(block().commands.TryPush(command));
  const std::atomic<bool> stop{false};
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  EXPECT_GT(block().heartbeat_ns.load(), 0u);
}

TEST_F(ExecutorTest, PublishesItsRanges) {
  executor_->PublishRanges();
  for (uint32_t b = 0; b < 3; ++b) {
    EXPECT_EQ(block().ranges[b].operators, 10u);
    EXPECT_EQ(block().ranges[b].cut_count, 4u);
    EXPECT_EQ(block().ranges[b].cuts[2], 7u);
    EXPECT_EQ(block().ranges[b].solo_ns, 1000u);
  }
  EXPECT_EQ(LoadText(block().device_name), "scripted device");
  EXPECT_EQ(LoadText(block().libraries), "none");
}

// --- Rounds sent ahead ---------------------------------------------------------------------------------------------

TEST_F(ExecutorTest, HoldsARangeUntilItsGateOpens) {
  EXPECT_FALSE(executor_->HoldOnDevice().ok()) << "this runtime cannot";
  Send(Range(1, 0, 4, 1));
  Send(Range(2, 0, 4, 1));
  EXPECT_TRUE(executor_->DoWork());
  EXPECT_FALSE(executor_->DoWork());
  EXPECT_TRUE(runtime_.calls.empty());
  EXPECT_EQ(block().commands.size(), 1u) << "one at a time where the executor waits";
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
    EXPECT_EQ(block().completions.size(), 0u);
    gate().Open(7);
    Command command;
    command.kind = Command::kStop;
    ASSERT_TRUE(block().commands.TryPush(command));
    Doorbell(&block().command_bell).Ring();
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
  EXPECT_EQ(runtime_.used_gate, &region_->header().gate);
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
