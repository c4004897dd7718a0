// Ranges that were sent ahead of their round: gates, two ranges on the device, and how they end.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "tests/worker/serve/executor_fixture.h"

namespace abacus {
namespace {

using test::ExecutorTest;

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

// Its copies may still write to the arena, so it is answered when it ends and not before.
TEST_F(ExecutorTest, ARangeThatWasStartedBeforeAFatalErrorIsAnsweredAsItEnds) {
  HoldOnDevice();
  Send(Range(1, 0, 4));
  Send(Range(2, 0, 4));
  EXPECT_TRUE(executor_->DoWork());
  runtime_.ends.emplace_back();  // the first ends well
  runtime_.result = Status(StatusCode::kWorkerFailed, "no memory for a launch");
  runtime_.fatal = true;
  const std::atomic<bool> stop{false};
  EXPECT_EQ(executor_->Serve(stop, 0).message(), "no memory for a launch");
  const Completion first = Answered().value();
  EXPECT_TRUE(Ok(first));
  EXPECT_EQ(first.fatal, 0u);
  const Completion second = Answered().value();
  EXPECT_FALSE(Ok(second));
  EXPECT_EQ(second.fatal, 1u);
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
