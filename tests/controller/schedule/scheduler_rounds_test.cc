// The rounds of the scheduler: planning ahead, the gate, failures within them, what is learned of them.
#include <gmock/gmock.h>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Lets one job of each service overlap: a group takes as long as its longest range.
class OverlapPolicy : public Policy {
 public:
  std::string_view name() const override { return "overlap"; }
  Plan Next(const Snapshot& snapshot) const override {
    Plan plan;
    for (const ServiceView& service : snapshot.services) {
      if (!service.idle() || !service.has_work()) continue;
      const Candidate next = service.unfinished != nullptr ? Candidate::Resume(service) : BeginAlone(service, 0);
      // The first service in halves, the others whole.
      const bool half = service.id == ServiceId(0) && next.first == 0;
      plan.assignments.push_back(next.UpTo(half ? service.buckets[next.bucket].cuts[1] : next.operators));
    }
    starts_ns.push_back(snapshot.now_ns);
    return plan;
  }
  mutable std::vector<uint64_t> starts_ns;  // of the plans it was asked for
};

class RoundsTest : public SchedulerLoopTest {
 protected:
  void StartRounds(bool abandon = false) {
    config_ = test::TwoServices("fcfs");
    config_.scheduler.lead_us = 1000;
    config_.scheduler.abandon = abandon;
    auto policy = std::make_unique<OverlapPolicy>();
    policy_ = policy.get();
    StartWith(std::move(policy));
    WorkerUp(0);
    WorkerUp(1);
  }
  // A range of service 1 runs, and one of service 0 is sent ahead for the next round.
  struct SentAhead {
    Command running, ahead;
    uint32_t ahead_slot = 0;
  };
  SentAhead StartRoundsAndSendAhead() {
    StartRounds();
    SentAhead sent;
    Submit(1);
    sent.running = TakeCommand(1).value();
    sent.ahead_slot = Submit(0);
    Advance(9 * kNsPerMs + 1);
    sent.ahead = TakeCommand(0).value();
    return sent;
  }
  // Queries of service 1, one after another, that take `longer_ns` more than predicted.
  void RunAloneOnAnIdleGpu(int queries, uint64_t longer_ns) {
    for (int i = 0; i < queries; ++i) {
      const uint32_t slot = Submit(1);
      const auto command = TakeCommand(1);
      ASSERT_TRUE(command);
      now_ns_ += kSoloNs + longer_ns;
      Complete(1, *command);
      ASSERT_EQ(Done().size(), 1u);
      table_.Return(slot);
      now_ns_ += kNsPerMs;
    }
  }
  bool IsOpen(const Command& command) { return Gate(&lane().gate).Reached(command.gate); }

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
  EXPECT_EQ(lane().predictor.rounds.load(), 2u);
  EXPECT_EQ(lane().predictor.rounds_several.load(), 1u);
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
  StoreText(worker_slot(0).error, "index out of range");
  Complete(0, *first, StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), IsEmpty()) << "its second half is still with the worker";
  StoreText(worker_slot(0).error, "skipped");
  Complete(0, *second, StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].message, "index out of range");
  EXPECT_EQ(lane().predictor.rounds.load(), 0u) << "failed rounds say nothing about the predictor";
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
  StoreText(worker_slot(0).error, "no such index");
  Complete(0, *third, StatusCode::kWorkerFailed);  // while round 2 still runs on the other worker
  EXPECT_THAT(Done(), ElementsAre(next));
  EXPECT_EQ(table_[next].message, "no such index");
  EXPECT_EQ(table_[next].timing.executed_us, 0u) << "its round never began";
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
  ASSERT_TRUE(worker_slot(1).completions.TryPush(completion));
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
  Post(WorkerEvent::kDown, 0, "killed by signal 9");
  EXPECT_THAT(Done(), ElementsAre(victim));
  EXPECT_EQ(table_[victim].status, StatusCode::kWorkerFailed);
  EXPECT_TRUE(IsOpen(*beside)) << "the next round starts without the dead";
  Complete(1, *beside);
  EXPECT_THAT(Done(), ElementsAre(other));
}

TEST_F(RoundsTest, AWorkerThatDiesBeforeItsRoundStartsIsLeftOut) {
  const SentAhead sent = StartRoundsAndSendAhead();
  Post(WorkerEvent::kDown, 0, "killed");
  EXPECT_THAT(Done(), ElementsAre(sent.ahead_slot));
  Complete(1, sent.running);
  EXPECT_EQ(Done().size(), 1u);
  const uint32_t next = Submit(1);
  const auto command = TakeCommand(1);
  ASSERT_TRUE(command) << "an empty round does not block the ones after it";
  Complete(1, *command);
  EXPECT_THAT(Done(), ElementsAre(next));
}

TEST_F(RoundsTest, AnEarlyRunnerIsCondemned) {
  const SentAhead sent = StartRoundsAndSendAhead();
  Complete(0, sent.ahead);
  ASSERT_EQ(control_.condemned.size(), 1u);
  EXPECT_THAT(control_.condemned[0].second, HasSubstr("before its round"));
  EXPECT_THAT(Done(), ElementsAre(sent.ahead_slot));
  EXPECT_EQ(table_[sent.ahead_slot].status, StatusCode::kWorkerFailed);
}

TEST_F(RoundsTest, ShutdownLeavesWhatRunsToItsEnd) {
  StartRounds();
  const uint32_t slot = Submit(0);
  const auto first = TakeCommand(0);
  Post(WorkerEvent::kShutDown, 0, "the controller is shutting down");
  EXPECT_THAT(Done(), IsEmpty()) << "its range still runs in the worker";
  Complete(0, *first);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kShuttingDown);
}

TEST_F(RoundsTest, TheGateNeverTakesTheValueThatMeansNone) {
  StartRounds();
  Gate(&lane().gate).Open(UINT32_MAX);
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
  const PredictorStats& stats = lane().predictor;
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

TEST_F(RoundsTest, PredictionsFollowWhatRoundsTake) {
  StartRounds();
  const PredictorStats& stats = lane().predictor;
  std::vector<uint32_t> slots = {Submit(1)};
  auto command = TakeCommand(1);
  for (int i = 0; i < 1000; ++i) {
    slots.push_back(Submit(1));
    Advance(11 * kNsPerMs);  // the next round is planned and sent
    const auto next = TakeCommand(1);
    ASSERT_TRUE(next);
    Advance(kNsPerMs);
    Complete(1, *command);
    for (const uint32_t done : Done()) {
      EXPECT_EQ(done, slots.front());
      table_.Return(done);
      slots.erase(slots.begin());
    }
    command = next;
  }
  EXPECT_GT(stats.factor_ppm[0].load(), 1'000'000u) << "10 ms alone, 12 ms measured: shared by all, and its own";
  EXPECT_EQ(stats.factor_ppm[1].load(), 1'000'000u) << "no round had two ranges";
  Complete(1, *command);
  ASSERT_EQ(Done().size(), 1u);
  EXPECT_NEAR(static_cast<double>(table_[slots.front()].timing.predicted_us), 12'000, 20);
}

TEST_F(RoundsTest, ASoloTimeThatIsWrongByTenIsRightWithinFiveRounds) {
  for (const uint64_t took_ns : {kSoloNs / 10, 10 * kSoloNs}) {
    StartRounds();
    RunAloneOnAnIdleGpu(5, took_ns - kSoloNs);
    const uint32_t slot = Submit(1);
    const auto command = TakeCommand(1);
    ASSERT_TRUE(command);
    now_ns_ += took_ns;
    Complete(1, *command);
    EXPECT_THAT(Done(), ElementsAre(slot));
    EXPECT_NEAR(static_cast<double>(table_[slot].timing.predicted_us), static_cast<double>(took_ns) * 1e-3,
                static_cast<double>(took_ns) * 1e-5);
    EXPECT_EQ(lane().predictor.factor_ppm[0].load(), 1'000'000u) << "it says nothing of other services";
    EXPECT_LT(lane().predictor.start_ns.load(), 100'000u) << "nor of starts";
    table_.Return(slot);
  }
}

TEST_F(RoundsTest, AQueryThatWasSentAheadAndHeldUpIsQueuedUntilItsRoundStarts) {
  const SentAhead sent = StartRoundsAndSendAhead();
  now_ns_ += 200 * kNsPerMs;
  Complete(1, sent.running);
  EXPECT_EQ(Done().size(), 1u);
  now_ns_ += 5 * kNsPerMs;
  Complete(0, sent.ahead);  // the first half
  const auto rest = TakeCommand(0);
  ASSERT_TRUE(rest);
  now_ns_ += 5 * kNsPerMs;
  Complete(0, *rest);
  EXPECT_THAT(Done(), ElementsAre(sent.ahead_slot));
  const Query& query = table_[sent.ahead_slot];
  EXPECT_EQ(query.status, StatusCode::kOk);
  EXPECT_EQ(query.timing.queued_us, 209'000u) << "9 ms until it was sent, 200 at the gate";
  EXPECT_EQ(query.timing.executed_us, 10'000u);
}

TEST_F(RoundsTest, AQueryThatIsHeldUpBeyondItsDeadlineSaysSo) {
  StartRounds(/*abandon=*/true);
  Submit(1);
  const auto running = TakeCommand(1);
  const uint32_t held = Submit(0, 30 * kNsPerMs);
  Advance(9 * kNsPerMs + 1);
  const auto ahead = TakeCommand(0);
  ASSERT_TRUE(running && ahead);
  Advance(100 * kNsPerMs);  // the running round hangs
  EXPECT_THAT(Done(), IsEmpty()) << "the worker still has the query's tensors";
  Complete(1, *running);
  EXPECT_EQ(Done().size(), 1u);
  now_ns_ += 5 * kNsPerMs;
  Complete(0, *ahead);
  EXPECT_THAT(Done(), ElementsAre(held));
  EXPECT_EQ(table_[held].status, StatusCode::kDeadlineExceeded);
  EXPECT_THAT(table_[held].message, HasSubstr("its target was 30.00 ms"));
  EXPECT_EQ(table_[held].timing.queued_us, 109'000u);
  EXPECT_FALSE(TakeCommand(0)) << "its second half";
}

TEST_F(RoundsTest, BehindAHungRangeOfItsOwnWorkerItSaysSoAsWell) {
  StartRounds(/*abandon=*/true);
  const uint32_t hangs = Submit(1);
  const uint32_t held = Submit(1, 30 * kNsPerMs);
  Advance(9 * kNsPerMs + 1);
  ASSERT_TRUE(TakeCommand(1));
  ASSERT_TRUE(TakeCommand(1));
  Advance(500 * kNsPerMs);
  Post(WorkerEvent::kDown, 1, "hung");
  EXPECT_THAT(Done(), testing::UnorderedElementsAre(hangs, held));
  EXPECT_EQ(table_[hangs].status, StatusCode::kWorkerFailed);
  EXPECT_EQ(table_[hangs].timing.queued_us, 0u);
  EXPECT_EQ(table_[hangs].timing.executed_us, 509'000u);
  EXPECT_EQ(table_[held].status, StatusCode::kDeadlineExceeded) << "nothing of it ran when its worker failed";
  EXPECT_EQ(table_[held].timing.queued_us, 509'000u);
  EXPECT_EQ(table_[held].timing.executed_us, 0u);
  EXPECT_EQ(table_[held].timing.rounds, 0u);
}

TEST_F(RoundsTest, AStartOnAnIdleGpuIsPlannedWithWhatItCosts) {
  StartRounds();
  RunAloneOnAnIdleGpu(400, 500 * kNsPerUs);
  EXPECT_NEAR(static_cast<double>(lane().predictor.start_ns.load()), 500e3, 1e3);
  Submit(1);
  EXPECT_NEAR(static_cast<double>(policy_->starts_ns.back() - now_ns_), 500e3, 1e3);
}

TEST_F(RoundsTest, ALearnedStartCostCannotRefuseQueriesForGood) {
  StartRounds(/*abandon=*/true);
  RunAloneOnAnIdleGpu(400, 900 * kNsPerUs);
  int refused = 0;
  for (std::optional<Command> command; !command && refused < 5000; command = TakeCommand(1)) {
    Submit(1, 10 * kNsPerMs + 500 * kNsPerUs);
    for (const uint32_t done : Done()) {
      EXPECT_EQ(table_[done].status, StatusCode::kDeadlineUnreachable);
      table_.Return(done);
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 1000);
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
