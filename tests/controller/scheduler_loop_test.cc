// The scheduler against a manual clock: the test plays front end, workers and supervisor.
#include "controller/scheduler_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "shm/clock.h"
#include "tests/support/specs.h"

namespace abacus {
namespace {

class FakeControl : public WorkerControl {
 public:
  void BlockReleased(uint32_t worker) override { released.push_back(worker); }
  void Condemn(uint32_t worker, const std::string& why) override { condemned.emplace_back(worker, why); }
  std::vector<uint32_t> released;
  std::vector<std::pair<uint32_t, std::string>> condemned;
};

class SchedulerLoopTest : public testing::Test {
 protected:
  static constexpr uint64_t kSoloNs = 10 * kNsPerMs;

  SchedulerLoopTest() : table_(64), channel_(64) {
    region_ = Region::Create("sched-" + std::to_string(getpid()), 2, 1 << 20).value();
  }
  void Start(const std::string& policy, bool abandon = false) {
    config_ = test::TwoServices(policy);
    config_.scheduler.abandon = abandon;
    config_.services[0].queue_limit = 3;
    config_.worker.round_timeout_ns = kNsPerSecond;
    loop_ = std::make_unique<SchedulerLoop>(
        config_, region_.get(), &table_, &channel_, MakePolicy(policy).value(), ServicePredictor(), &control_,
        [this] { ++wakes_; }, [this] { return now_ns_ + planning_ns_; });
  }
  void WorkerUp(uint32_t worker) {
    for (auto& entry : region_->worker(worker).ranges) {
      entry.operators = 10;
      entry.cut_count = 3;
      entry.cuts = {0, 5, 10};
      entry.solo_ns = kSoloNs;
    }
    loop_->Post({WorkerEvent::kUp, worker, {}});
    Step();
  }
  uint32_t Submit(uint32_t service, uint64_t qos_ns = kNsPerSecond) {
    const uint32_t slot = *table_.Acquire();
    table_[slot].service = service;
    table_[slot].bucket = 0;
    table_[slot].arrival_ns = now_ns_;
    table_[slot].deadline_ns = now_ns_ + qos_ns;
    channel_.submitted.push(slot);
    Step();
    return slot;
  }
  void Step() { loop_->DoWork(now_ns_); }
  void Advance(uint64_t ns) {
    now_ns_ += ns;
    Step();
  }
  std::optional<Command> TakeCommand(uint32_t worker) {
    Command command;
    if (!region_->worker(worker).commands.TryPop(&command)) return std::nullopt;
    return command;
  }
  void Complete(uint32_t worker, const Command& command, StatusCode code = StatusCode::kOk) {
    Completion completion;
    completion.job_id = command.job_id;
    completion.first = command.first;
    completion.last = command.last;
    completion.status = static_cast<uint32_t>(code);
    ASSERT_TRUE(region_->worker(worker).completions.TryPush(completion));
    Step();
  }
  std::vector<uint32_t> Done() {
    std::vector<uint32_t> slots;
    uint32_t slot = 0;
    while (channel_.done.pop(slot)) slots.push_back(slot);
    return slots;
  }

  Config config_;
  std::unique_ptr<Region> region_;
  QueryTable table_;
  QueryChannel channel_;
  FakeControl control_;
  std::unique_ptr<SchedulerLoop> loop_;
  uint64_t now_ns_ = 1000 * kNsPerSecond;
  uint64_t planning_ns_ = 0;  // how much later than now_ns_ a step's plan is ready
  int wakes_ = 0;
};

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
  EXPECT_EQ(region_->worker(0).stats.violations.load(), 1u);
}

TEST_F(SchedulerLoopTest, ADeadWorkerFailsItsQueryAndOnlyThat) {
  Start("free");
  WorkerUp(0);
  WorkerUp(1);
  const uint32_t victim = Submit(0);
  const uint32_t waiting = Submit(0);
  const uint32_t other = Submit(1);
  const auto other_command = TakeCommand(1);
  loop_->Post({WorkerEvent::kDown, 0, "killed by signal 9"});
  Step();
  EXPECT_THAT(Done(), ElementsAre(victim));
  EXPECT_EQ(table_[victim].status, StatusCode::kWorkerFailed);
  EXPECT_THAT(table_[victim].message, HasSubstr("signal 9"));
  EXPECT_THAT(control_.released, ElementsAre(0u));
  EXPECT_TRUE(region_->worker(0).commands.empty()) << "the next process starts with clean rings";
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
  ASSERT_TRUE(region_->worker(0).completions.TryPush(completion));
  loop_->Post({WorkerEvent::kDown, 0, "died"});
  Step();
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
}

TEST_F(SchedulerLoopTest, AServiceThatStaysDownAnswersAtOnce) {
  Start("fcfs");
  const uint32_t waiting = Submit(0);
  loop_->Post({WorkerEvent::kGaveUp, 0, "crash loop"});
  Step();
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
  loop_->Post({WorkerEvent::kShutDown, 0, "the controller is shutting down"});
  Step();
  EXPECT_THAT(Done(), ElementsAre(waiting));
  EXPECT_EQ(table_[waiting].status, StatusCode::kShuttingDown);
}

TEST_F(SchedulerLoopTest, AModelErrorFailsOneQueryAndServesOn) {
  Start("fcfs");
  WorkerUp(0);
  const uint32_t bad = Submit(0), good = Submit(0);
  StoreText(region_->worker(0).error, "index out of range");
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
  loop_->Post({WorkerEvent::kDown, 0, "hung"});
  Step();
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
  region_->worker(0).ranges[0].cut_count = 60'000;
  loop_->Post({WorkerEvent::kUp, 0, {}});
  Step();
  EXPECT_EQ(control_.condemned.size(), 1u);
  Submit(0);
  EXPECT_FALSE(TakeCommand(0));
}

// --- Rounds ---------------------------------------------------------------------------------------------------------

// Lets one job of each service overlap: a group takes as long as its longest range.
class OverlapPolicy : public Policy {
 public:
  std::string_view name() const override { return "overlap"; }
  Plan Next(const Snapshot& snapshot) const override {
    Plan plan;
    for (const ServiceView& service : snapshot.services) {
      if (!service.idle() || service.waiting.empty()) continue;
      Job* job = service.waiting.front();
      // The first service in halves, the others whole.
      const uint32_t last = job->service == 0 && job->next_operator == 0 ? job->cuts[1] : job->operators;
      plan.assignments.push_back({job, job->next_operator, last});
    }
    starts_ns.push_back(snapshot.now_ns);
    return plan;
  }
  mutable std::vector<uint64_t> starts_ns;  // of the plans it was asked for
};

class RoundsTest : public SchedulerLoopTest {
 protected:
  void StartRounds() {
    config_ = test::TwoServices("fcfs");
    config_.scheduler.lead_us = 1000;
    config_.worker.round_timeout_ns = kNsPerSecond;
    auto policy = std::make_unique<OverlapPolicy>();
    policy_ = policy.get();
    loop_ = std::make_unique<SchedulerLoop>(
        config_, region_.get(), &table_, &channel_, std::move(policy), ServicePredictor(), &control_,
        [this] { ++wakes_; }, [this] { return now_ns_ + planning_ns_; });
    WorkerUp(0);
    WorkerUp(1);
  }
  bool IsOpen(const Command& command) const { return Gate(&region_->header().gate).Reached(command.gate); }

  OverlapPolicy* policy_ = nullptr;
};

TEST_F(RoundsTest, TheNextRoundIsSentAheadAndStartsWithTheLastCompletion) {
  StartRounds();
  const uint32_t slot = Submit(0);  // runs at once: round 1, first half, predicted 5 ms
  const auto first = TakeCommand(0);
  ASSERT_TRUE(first);
  EXPECT_TRUE(IsOpen(*first));
  EXPECT_EQ(first->last, 5u);
  const uint32_t other = Submit(1);
  Advance(3 * kNsPerMs);
  EXPECT_FALSE(TakeCommand(0)) << "planned too early: queries that arrive now should still count";
  Advance(kNsPerMs + 1);  // lead_us before the predicted end
  const auto second = TakeCommand(0), beside = TakeCommand(1);
  ASSERT_TRUE(second && beside);
  EXPECT_EQ(second->first, 5u) << "as if the first half had succeeded";
  EXPECT_EQ(second->gate, beside->gate);
  EXPECT_FALSE(IsOpen(*second));
  EXPECT_EQ(policy_->starts_ns.back(), now_ns_ - 4 * kNsPerMs - 1 + 5 * kNsPerMs) << "planned for the predicted end";
  Complete(0, *first);
  EXPECT_TRUE(IsOpen(*second));
  EXPECT_THAT(Done(), IsEmpty());
  Complete(1, *beside);
  EXPECT_THAT(Done(), ElementsAre(other)) << "answered without waiting for the round";
  Complete(0, *second);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].timing.rounds, 2u);
  EXPECT_EQ(region_->header().predictor.rounds.load(), 2u);
  EXPECT_EQ(region_->header().predictor.rounds_several.load(), 1u);
}

TEST_F(RoundsTest, ARoundEndsOnlyWithItsLastRange) {
  StartRounds();
  Submit(0);
  const auto first = TakeCommand(0);
  Submit(1);
  Advance(5 * kNsPerMs);
  const auto second = TakeCommand(0), beside = TakeCommand(1);
  Complete(0, *first);
  Submit(0);
  Advance(20 * kNsPerMs);
  const auto third = TakeCommand(0);
  ASSERT_TRUE(third);
  Complete(0, *second);
  EXPECT_FALSE(IsOpen(*third));
  Complete(1, *beside);
  EXPECT_TRUE(IsOpen(*third));
}

TEST_F(RoundsTest, AFailureEndsTheJobWithAllThatWasSentOfIt) {
  StartRounds();
  const uint32_t slot = Submit(0);
  const auto first = TakeCommand(0);
  Advance(5 * kNsPerMs);
  const auto second = TakeCommand(0);
  ASSERT_TRUE(second);
  StoreText(region_->worker(0).error, "index out of range");
  Complete(0, *first, StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), IsEmpty()) << "its second half is still with the worker";
  StoreText(region_->worker(0).error, "skipped");
  Complete(0, *second, StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].message, "index out of range");
  EXPECT_EQ(region_->header().predictor.rounds.load(), 0u) << "failed rounds say nothing about the predictor";
  const uint32_t next = Submit(0);
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command);
  EXPECT_TRUE(IsOpen(*command));
  (void)next;
}

TEST_F(RoundsTest, AnErrorAheadOfItsRoundIsHonest) {
  StartRounds();
  const uint32_t slot = Submit(0);
  const auto first = TakeCommand(0);
  const uint32_t beside = Submit(1);
  Advance(5 * kNsPerMs);  // the second half of the first job and the other query: round 2
  const auto second = TakeCommand(0), other = TakeCommand(1);
  ASSERT_TRUE(second && other);
  Complete(0, *first);
  const uint32_t next = Submit(0);
  Advance(15 * kNsPerMs);  // round 3 is sent: half of the next job
  const auto third = TakeCommand(0);
  ASSERT_TRUE(third);
  Complete(0, *second);
  EXPECT_THAT(Done(), ElementsAre(slot));
  StoreText(region_->worker(0).error, "no such index");
  Complete(0, *third, StatusCode::kWorkerFailed);  // while round 2 still runs on the other worker
  EXPECT_THAT(Done(), ElementsAre(next));
  EXPECT_EQ(table_[next].message, "no such index");
  EXPECT_THAT(control_.condemned, IsEmpty()) << "a worker may say early that a range cannot run";
  Complete(1, *other);
  EXPECT_THAT(Done(), ElementsAre(beside));
  const uint32_t last = Submit(0);
  const auto again = TakeCommand(0);
  ASSERT_TRUE(again) << "the emptied round does not block the next";
  EXPECT_TRUE(IsOpen(*again));
  (void)last;
}

TEST_F(RoundsTest, AFailedJobIsNotPlannedAgain) {
  StartRounds();
  Submit(0);
  const auto first = TakeCommand(0);
  Complete(0, *first, StatusCode::kWorkerFailed);
  EXPECT_EQ(Done().size(), 1u);
  EXPECT_FALSE(TakeCommand(0)) << "its second half";
}

TEST_F(RoundsTest, AWorkerThatDoesNotExitAfterAFatalErrorIsCondemned) {
  StartRounds();
  Submit(1);
  const auto command = TakeCommand(1);
  Completion completion;
  completion.job_id = command->job_id;
  completion.last = command->last;
  completion.status = static_cast<uint32_t>(StatusCode::kWorkerFailed);
  completion.fatal = 1;
  ASSERT_TRUE(region_->worker(1).completions.TryPush(completion));
  Step();
  Advance(kNsPerSecond);
  EXPECT_THAT(control_.condemned, IsEmpty()) << "it exits by itself";
  Advance(2 * kNsPerSecond);
  ASSERT_EQ(control_.condemned.size(), 1u);
  EXPECT_THAT(control_.condemned[0].second, HasSubstr("has not exited"));
}

TEST_F(RoundsTest, AWorkerThatDiesDoesNotHoldUpTheRounds) {
  StartRounds();
  const uint32_t victim = Submit(0);
  ASSERT_TRUE(TakeCommand(0));
  const uint32_t other = Submit(1);
  Advance(5 * kNsPerMs);
  const auto beside = TakeCommand(1);
  ASSERT_TRUE(beside);
  EXPECT_FALSE(IsOpen(*beside));
  loop_->Post({WorkerEvent::kDown, 0, "killed by signal 9"});
  Step();
  EXPECT_THAT(Done(), ElementsAre(victim));
  EXPECT_EQ(table_[victim].status, StatusCode::kWorkerFailed);
  EXPECT_TRUE(IsOpen(*beside)) << "the next round starts without the dead";
  Complete(1, *beside);
  EXPECT_THAT(Done(), ElementsAre(other));
}

TEST_F(RoundsTest, AWorkerThatDiesBeforeItsRoundStartsIsLeftOut) {
  StartRounds();
  Submit(1);
  const auto first = TakeCommand(1);
  const uint32_t victim = Submit(0);
  Advance(9 * kNsPerMs + 1);
  ASSERT_TRUE(TakeCommand(0));
  loop_->Post({WorkerEvent::kDown, 0, "killed"});
  Step();
  EXPECT_THAT(Done(), ElementsAre(victim));
  Complete(1, *first);
  EXPECT_EQ(Done().size(), 1u);
  const uint32_t next = Submit(1);
  const auto command = TakeCommand(1);
  ASSERT_TRUE(command) << "an empty round does not block the ones after it";
  Complete(1, *command);
  EXPECT_THAT(Done(), ElementsAre(next));
}

TEST_F(RoundsTest, AnEarlyRunnerIsCondemned) {
  StartRounds();
  Submit(1);
  const auto first = TakeCommand(1);
  const uint32_t slot = Submit(0);
  Advance(9 * kNsPerMs + 1);
  const auto ahead = TakeCommand(0);
  ASSERT_TRUE(ahead);
  Complete(0, *ahead);
  ASSERT_EQ(control_.condemned.size(), 1u);
  EXPECT_THAT(control_.condemned[0].second, HasSubstr("before its round"));
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kWorkerFailed);
  (void)first;
}

TEST_F(RoundsTest, ShutdownLeavesWhatRunsToItsEnd) {
  StartRounds();
  const uint32_t slot = Submit(0);
  const auto first = TakeCommand(0);
  loop_->Post({WorkerEvent::kShutDown, 0, "the controller is shutting down"});
  Step();
  EXPECT_THAT(Done(), IsEmpty()) << "its range still runs in the worker";
  Complete(0, *first);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kShuttingDown);
}

TEST_F(RoundsTest, TheGateNeverTakesTheValueThatMeansNone) {
  StartRounds();
  Gate(&region_->header().gate).Open(UINT32_MAX);
  const uint32_t slot = Submit(1);
  const auto command = TakeCommand(1);
  ASSERT_TRUE(command);
  EXPECT_NE(command->gate, 0u);
  EXPECT_TRUE(IsOpen(*command));
  Complete(1, *command);
  EXPECT_THAT(Done(), ElementsAre(slot));
}

TEST_F(RoundsTest, RoundsThatTakeLongerThanPredictedAreCountedAndRaiseTheMargin) {
  StartRounds();
  const PredictorStats& stats = region_->header().predictor;
  const auto run = [&](uint64_t took_ns) {
    Submit(1);
    const auto command = TakeCommand(1);
    now_ns_ += took_ns;
    Complete(1, *command);
  };
  run(10 * kNsPerMs);
  EXPECT_EQ(stats.rounds_over.load(), 0u);
  const uint32_t before = stats.margin_ppm.load();
  run(20 * kNsPerMs);
  EXPECT_EQ(stats.rounds_over.load(), 1u);
  EXPECT_GT(stats.margin_ppm.load(), before);
  EXPECT_EQ(stats.rounds_untrained.load(), 2u);
}

TEST_F(RoundsTest, PlanningIsNotPartOfARoundOnAnIdleGpu) {
  StartRounds();
  planning_ns_ = kNsPerMs;
  const uint32_t slot = Submit(1);
  const auto command = TakeCommand(1);
  now_ns_ += 10 * kNsPerMs;
  Complete(1, *command);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].timing.executed_us, 9000u);
}

}  // namespace
}  // namespace abacus
