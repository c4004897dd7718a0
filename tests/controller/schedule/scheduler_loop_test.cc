// Queries, workers and failures, one range at a time.
#include <gmock/gmock.h>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(SchedulerLoopTest, RunsAQueryAndReportsItsTimes) {
  Start("fcfs");
  WorkerUp(0);
  const uint32_t slot = Submit(0);
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->first, 0u);
  EXPECT_EQ(command->last, 10u);
  EXPECT_EQ(loop_->InFlight(), 1u);
  now_ns_ += 7 * kNsPerMs;
  Complete(0, *command);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
  EXPECT_EQ(table_[slot].timing.executed_us, 7000u);
  EXPECT_EQ(table_[slot].timing.queued_us, 0u);
  EXPECT_EQ(table_[slot].timing.rounds, 1u);
  EXPECT_EQ(table_[slot].timing.predicted_us, kSoloNs / kNsPerUs);
  EXPECT_EQ(loop_->InFlight(), 0u);
  EXPECT_EQ(wakes_, 1);
}

TEST_F(SchedulerLoopTest, QueriesWaitForTheirWorker) {
  Start("fcfs");
  Submit(0);
  Advance(kNsPerMs);
  EXPECT_FALSE(TakeCommand(0));
  WorkerUp(0);
  EXPECT_TRUE(TakeCommand(0));
}

TEST_F(SchedulerLoopTest, OneJobAtATimeUnderFcfsAndAllUnderFree) {
  Start("fcfs");
  WorkerUp(0);
  WorkerUp(1);
  Submit(0);
  Submit(1);
  const auto first = TakeCommand(0);
  ASSERT_TRUE(first);
  EXPECT_FALSE(TakeCommand(1));
  Complete(0, *first);
  EXPECT_TRUE(TakeCommand(1));

  Start("free");
  WorkerUp(0);
  WorkerUp(1);
  Submit(0);
  Submit(1);
  EXPECT_TRUE(TakeCommand(0));
  EXPECT_TRUE(TakeCommand(1));
}

TEST_F(SchedulerLoopTest, AFullQueueIsTypedOverload) {
  Start("fcfs");
  WorkerUp(0);
  for (int i = 0; i < 4; ++i) Submit(0);  // one runs, three wait
  EXPECT_THAT(Done(), IsEmpty());
  const uint32_t extra = Submit(0);
  EXPECT_THAT(Done(), ElementsAre(extra));
  EXPECT_EQ(table_[extra].status, StatusCode::kOverloaded);
  EXPECT_THAT(table_[extra].message, HasSubstr("queue_limit"));
  const uint32_t other = Submit(1);
  EXPECT_THAT(Done(), IsEmpty()) << "the other service is not affected";
  (void)other;
}

TEST_F(SchedulerLoopTest, AnswersHopelessQueriesAtOnceWhenAbandoning) {
  Start("fcfs", true);
  WorkerUp(0);
  Submit(0);  // runs for 10 ms, and is not interrupted
  const uint32_t possible = Submit(0, 25 * kNsPerMs);
  const uint32_t hopeless = Submit(0, 15 * kNsPerMs);  // could start at 10 ms and would need until 20
  Advance(2 * kNsPerMs);
  EXPECT_THAT(Done(), ElementsAre(hopeless));
  EXPECT_EQ(table_[hopeless].status, StatusCode::kDeadlineUnreachable);
  EXPECT_THAT(table_[hopeless].message, HasSubstr("20.00 ms"));
  Advance(15 * kNsPerMs);  // the first is late: what waits behind it cannot make it any more
  EXPECT_THAT(Done(), ElementsAre(possible));
  EXPECT_EQ(table_[possible].status, StatusCode::kDeadlineUnreachable);
}

TEST_F(SchedulerLoopTest, AnswersExpiredQueriesWhenAbandoning) {
  Start("fcfs", true);  // and no worker comes up
  const uint32_t expires = Submit(0, 15 * kNsPerMs);
  Advance(14 * kNsPerMs);
  EXPECT_THAT(Done(), IsEmpty());
  Advance(2 * kNsPerMs);
  EXPECT_THAT(Done(), ElementsAre(expires));
  EXPECT_EQ(table_[expires].status, StatusCode::kDeadlineExceeded);
}

TEST_F(SchedulerLoopTest, RunsLateQueriesWhenNotAbandoning) {
  Start("fcfs", false);
  WorkerUp(0);
  const uint32_t slot = Submit(0, kNsPerMs);
  const auto command = TakeCommand(0);
  now_ns_ += 50 * kNsPerMs;
  Complete(0, *command);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
  EXPECT_EQ(stats(0).violations.load(), 1u);
}

TEST_F(SchedulerLoopTest, ADeadWorkerFailsItsQueryAndOnlyThat) {
  Start("free");
  WorkerUp(0);
  WorkerUp(1);
  const uint32_t victim = Submit(0);
  const uint32_t waiting = Submit(0);
  const uint32_t other = Submit(1);
  const auto other_command = TakeCommand(1);
  Post(WorkerEvent::kDown, 0, "killed by signal 9");
  EXPECT_THAT(Done(), ElementsAre(victim));
  EXPECT_EQ(table_[victim].status, StatusCode::kWorkerFailed);
  EXPECT_THAT(table_[victim].message, HasSubstr("signal 9"));
  EXPECT_THAT(control_.released, ElementsAre(Worker(0)));
  EXPECT_TRUE(worker_slot(0).commands.empty()) << "the next process starts with clean rings";
  Complete(1, *other_command);
  EXPECT_THAT(Done(), ElementsAre(other));
  WorkerUp(0);
  const auto again = TakeCommand(0);
  ASSERT_TRUE(again) << "what waited runs on the new process";
  Complete(0, *again);
  EXPECT_THAT(Done(), ElementsAre(waiting));
  EXPECT_EQ(table_[waiting].status, StatusCode::kOk);
}

TEST_F(SchedulerLoopTest, WhatAWorkerFinishedBeforeItDiedCounts) {
  Start("fcfs");
  WorkerUp(0);
  const uint32_t slot = Submit(0);
  const auto command = TakeCommand(0);
  Completion completion;
  completion.job_id = command->job_id;
  completion.last = 10;
  ASSERT_TRUE(worker_slot(0).completions.TryPush(completion));
  Post(WorkerEvent::kDown, 0, "died");
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
}

TEST_F(SchedulerLoopTest, AServiceThatStaysDownAnswersAtOnce) {
  Start("fcfs");
  const uint32_t waiting = Submit(0);
  Post(WorkerEvent::kGaveUp, 0, "crash loop");
  const uint32_t late = Submit(0);
  EXPECT_THAT(Done(), ElementsAre(waiting, late));
  EXPECT_EQ(table_[late].status, StatusCode::kWorkerFailed);
  WorkerUp(0);
  Submit(0);
  EXPECT_TRUE(TakeCommand(0)) << "and serves again when its worker came back";
}

TEST_F(SchedulerLoopTest, ShutdownAnswersWhatWaits) {
  Start("fcfs");
  const uint32_t waiting = Submit(0);
  Post(WorkerEvent::kShutDown, 0, "the controller is shutting down");
  EXPECT_THAT(Done(), ElementsAre(waiting));
  EXPECT_EQ(table_[waiting].status, StatusCode::kShuttingDown);
}

TEST_F(SchedulerLoopTest, AModelErrorFailsOneQueryAndServesOn) {
  Start("fcfs");
  WorkerUp(0);
  const uint32_t bad = Submit(0), good = Submit(0);
  StoreText(worker_slot(0).error, "index out of range");
  Complete(0, *TakeCommand(0), StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), ElementsAre(bad));
  EXPECT_EQ(table_[bad].message, "index out of range");
  Complete(0, *TakeCommand(0));
  EXPECT_THAT(Done(), ElementsAre(good));
}

TEST_F(SchedulerLoopTest, CondemnsAWorkerThatHangs) {
  Start("fcfs");
  WorkerUp(0);
  const uint32_t slot = Submit(0);
  Advance(kNsPerSecond - kNsPerMs);
  EXPECT_THAT(control_.condemned, IsEmpty());
  Advance(10 * kNsPerMs);
  Advance(10 * kNsPerMs);
  ASSERT_EQ(control_.condemned.size(), 1u) << "once";
  EXPECT_THAT(control_.condemned[0].second, HasSubstr("round_timeout_ms"));
  EXPECT_THAT(Done(), IsEmpty()) << "its arena block stays in use until the process is gone";
  Post(WorkerEvent::kDown, 0, "hung");
  EXPECT_THAT(Done(), ElementsAre(slot));
}

TEST_F(SchedulerLoopTest, CondemnsAWorkerThatAnswersNonsense) {
  Start("fcfs");
  WorkerUp(0);
  Submit(0);
  Command wrong = *TakeCommand(0);
  wrong.job_id += 5;
  Complete(0, wrong);
  EXPECT_EQ(control_.condemned.size(), 1u);
  EXPECT_THAT(Done(), IsEmpty());
}

TEST_F(SchedulerLoopTest, CondemnsAWorkerThatPublishesNonsense) {
  Start("fcfs");
  worker_slot(0).ranges[0].cut_count = 60'000;
  Post(WorkerEvent::kUp, 0);
  EXPECT_EQ(control_.condemned.size(), 1u);
  Submit(0);
  EXPECT_FALSE(TakeCommand(0));
}

}  // namespace
}  // namespace abacus
