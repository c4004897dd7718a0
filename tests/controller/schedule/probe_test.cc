// Services that only refuse, and the query that they let through.
#include "controller/schedule/probe.h"

#include <gmock/gmock.h>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kSecondNs = kNsPerSecond;

TEST(Probe, ComesAfterASecondOfRefusalsAndThenAloneUntilItEnds) {
  Probe probe;
  EXPECT_FALSE(probe.MayRun(5 * kSecondNs)) << "one impossible query is no service that only refuses";
  EXPECT_FALSE(probe.MayRun(6 * kSecondNs - 1));
  EXPECT_TRUE(probe.MayRun(6 * kSecondNs));
  EXPECT_FALSE(probe.MayRun(60 * kSecondNs)) << "it is out";
}

TEST(Probe, BacksOffUpToAMinuteWhileItConfirmsThePrediction) {
  Probe probe;
  uint64_t now_ns = kSecondNs;
  probe.MayRun(now_ns);
  for (const uint64_t interval_s : {1, 2, 4, 8, 16, 32, 60, 60, 60}) {
    EXPECT_FALSE(probe.MayRun(now_ns + interval_s * kSecondNs - 1)) << interval_s;
    now_ns += interval_s * kSecondNs;
    EXPECT_TRUE(probe.MayRun(now_ns)) << interval_s;
    probe.Ended(/*in_time=*/false, now_ns);
  }
  EXPECT_TRUE(probe.MayRun(now_ns + 60 * kSecondNs));
  probe.Ended(/*in_time=*/true, now_ns);
  EXPECT_FALSE(probe.MayRun(now_ns)) << "counts from the next refusal";
  EXPECT_TRUE(probe.MayRun(now_ns + kSecondNs)) << "and from the first interval again";
}

TEST(Probe, AServiceThatCompletesQueriesNeedsNone) {
  Probe probe;
  for (uint64_t ms = 1; ms < 10'000; ++ms) {
    EXPECT_FALSE(probe.MayRun(ms * kNsPerMs));
    if (ms % 900 == 0) probe.Completed();
  }
}

// Service 0 says that it takes 10 ms, and its queries have 5.
class ProbesTest : public SchedulerLoopTest {
 protected:
  static constexpr uint64_t kTargetNs = kSoloNs / 2;
  void StartRefusing(const std::string& policy = "edf") {
    Start(policy, /*abandon=*/true);
    WorkerUp(0);
    Refused(Submit(0, kTargetNs));
  }
  void Refused(uint32_t slot) {
    ASSERT_THAT(Done(), ElementsAre(slot));
    EXPECT_EQ(table_[slot].status, StatusCode::kDeadlineUnreachable);
    table_.Return(slot);
  }
  // A query of service 0 that runs although it is predicted late. It may come in pieces of `piece_ns` each.
  uint32_t RunProbe(uint64_t piece_ns) {
    const uint32_t slot = Submit(0, kTargetNs);
    for (std::optional<Command> command; (command = TakeCommand(0));) {
      now_ns_ += piece_ns;
      Complete(0, *command);
    }
    EXPECT_THAT(Done(), ElementsAre(slot));
    return slot;
  }
};

TEST_F(ProbesTest, APredictionTooLongIsCorrectedByOneQuery) {
  for (const char* policy : {"edf", "abacus", "free"}) {
    StartRefusing(policy);
    Advance(kNsPerSecond / 2);
    Refused(Submit(0, kTargetNs));
    Advance(kNsPerSecond / 2);
    const uint32_t slot = RunProbe(kNsPerMs);
    EXPECT_EQ(table_[slot].status, StatusCode::kOk) << policy;
    EXPECT_EQ(table_[slot].timing.executed_us, 1000u);
    table_.Return(slot);
    for (int i = 0; i < 5; ++i) {  // and from now on all run
      const uint32_t next = Submit(0, kTargetNs);
      const auto command = TakeCommand(0);
      ASSERT_TRUE(command) << policy;
      now_ns_ += kNsPerMs;
      Complete(0, *command);
      EXPECT_THAT(Done(), ElementsAre(next));
      EXPECT_EQ(table_[next].status, StatusCode::kOk);
      EXPECT_LT(table_[next].timing.predicted_us, 1100u);
      table_.Return(next);
    }
  }
}

TEST_F(ProbesTest, OneThatIsLateIsAnsweredSoAndTheNextComesLater) {
  StartRefusing();
  Advance(kNsPerSecond);
  const uint32_t slot = RunProbe(kSoloNs);
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
  EXPECT_EQ(table_[slot].timing.executed_us, 10'000u);
  EXPECT_EQ(stats(0).violations.load(), 1u) << "its own deadline counts";
  table_.Return(slot);
  Advance(kNsPerSecond);
  Refused(Submit(0, kTargetNs));
  Advance(kNsPerSecond);
  RunProbe(kSoloNs);
}

TEST_F(ProbesTest, WithoutAbandonNothingIsRefused) {
  Start("edf", /*abandon=*/false);
  WorkerUp(0);
  RunProbe(kSoloNs);
  RunProbe(kSoloNs);
}

TEST_F(ProbesTest, OthersThatWaitGoFirst) {
  StartRefusing();
  WorkerUp(1);
  Advance(kNsPerSecond);
  Submit(1, 100 * kNsPerMs);
  const auto running = TakeCommand(1);
  ASSERT_TRUE(running);
  const uint32_t probe = Submit(0, kTargetNs);
  Submit(1, 100 * kNsPerMs);
  Complete(1, *running);
  EXPECT_FALSE(TakeCommand(0));
  const auto other = TakeCommand(1);
  ASSERT_TRUE(other) << "its deadline is 100 ms away, the probe is due a second after its own";
  Complete(1, *other);
  EXPECT_EQ(Done().size(), 2u);
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command);
  (void)probe;
}

TEST_F(ProbesTest, RunsInPiecesThatLeaveOthersTheirTime) {
  config_ = test::TwoServices("edf");
  config_.scheduler.abandon = true;
  config_.scheduler.margin = 0.1;
  config_.services[1].qos_ns = kSoloNs + 9 * kNsPerMs;  // 10 ms and their margin, then 7.9 for others
  StartAsConfigured();
  WorkerUp(0);
  WorkerUp(1);
  Refused(Submit(0, kTargetNs));
  Advance(kNsPerSecond);
  const uint32_t probe = Submit(0, kTargetNs);
  const auto piece = TakeCommand(0);
  ASSERT_TRUE(piece);
  EXPECT_EQ(piece->last, 5u) << "5 of 10 ms, up to the only cut point";
  const uint32_t urgent = Submit(1, config_.services[1].qos_ns);
  now_ns_ += 5 * kNsPerMs;
  Complete(0, *piece);
  const auto other = TakeCommand(1);
  ASSERT_TRUE(other) << "it does not wait for the rest of the probe";
  now_ns_ += kSoloNs;
  Complete(1, *other);
  EXPECT_THAT(Done(), ElementsAre(urgent));
  EXPECT_EQ(stats(1).violations.load(), 0u);
  const auto rest = TakeCommand(0);
  ASSERT_TRUE(rest);
  EXPECT_EQ(rest->first, 5u);
  now_ns_ += 5 * kNsPerMs;
  Complete(0, *rest);
  EXPECT_THAT(Done(), ElementsAre(probe));
  EXPECT_EQ(table_[probe].status, StatusCode::kOk);
  EXPECT_EQ(table_[probe].timing.rounds, 2u);
}

TEST_F(ProbesTest, SharesNoJob) {
  config_ = test::TwoServices("edf");
  config_.scheduler.abandon = true;
  StartAsConfigured();
  WorkerUp(0);
  WorkerUp(1);
  Refused(Submit(0, kTargetNs));
  Advance(kNsPerSecond);
  Submit(1);
  const auto running = TakeCommand(1);
  ASSERT_TRUE(running);
  const uint32_t probe = Submit(0, kTargetNs);
  const uint32_t first = Submit(0, 500 * kNsPerMs), second = Submit(0, 500 * kNsPerMs);
  const uint32_t later = Submit(0, 5 * kNsPerSecond);
  Complete(1, *running);
  ASSERT_EQ(Done().size(), 1u);
  std::vector<std::vector<uint32_t>> jobs;
  while (const auto command = TakeCommand(0)) {
    now_ns_ += kNsPerMs;
    Complete(0, *command);
    if (command->last == 10) jobs.push_back(Done());
  }
  ASSERT_GE(jobs.size(), 2u);
  EXPECT_THAT(jobs[0], ElementsAre(first, second, later)) << "a job with room for four";
  EXPECT_THAT(jobs[1], ElementsAre(probe));
  EXPECT_EQ(table_[probe].status, StatusCode::kOk);
}

TEST_F(ProbesTest, AQueryInPartsIsOneAndItsPartsRunOneAfterAnother) {
  StartRefusing();
  Advance(kNsPerSecond);
  const uint32_t probe = Submit(0, kTargetNs, /*rows=*/10);
  int ranges = 0;
  while (const auto command = TakeCommand(0)) {
    EXPECT_THAT(Done(), IsEmpty());
    ++ranges;
    now_ns_ += kNsPerMs;
    Complete(0, *command);
  }
  EXPECT_GE(ranges, 3);
  EXPECT_THAT(Done(), ElementsAre(probe));
  EXPECT_EQ(table_[probe].status, StatusCode::kOk);
}

TEST_F(ProbesTest, OneThatIsCancelledWhileItWaitsTellsNothing) {
  StartRefusing();
  WorkerUp(1);
  Advance(kNsPerSecond);
  Submit(1);
  const auto running = TakeCommand(1);
  ASSERT_TRUE(running);
  const uint32_t cancelled = Submit(0, kTargetNs);
  Advance(kNsPerMs + 1);
  EXPECT_THAT(Done(), IsEmpty()) << "it is the probe";
  Cancel(cancelled);
  EXPECT_THAT(Done(), ElementsAre(cancelled));
  const uint32_t next = Submit(0, kTargetNs);
  Advance(kNsPerMs + 1);
  EXPECT_THAT(Done(), IsEmpty()) << "the next one is, at once";
  (void)next;
}

TEST_F(ProbesTest, OneThatCannotRunIsAnsweredWithItsOwnTarget) {
  StartRefusing();
  Advance(kNsPerSecond);
  WorkerUp(1);
  Submit(1, 30 * kNsPerSecond);
  const auto running = TakeCommand(1);
  ASSERT_TRUE(running);
  const uint32_t probe = Submit(0, kTargetNs);
  Advance(2 * kNsPerMs);
  Advance(kNsPerSecond / 2);
  EXPECT_THAT(Done(), IsEmpty());
  const auto ahead = TakeCommand(0);
  ASSERT_TRUE(ahead) << "sent ahead when the running round was to end";
  Advance(kNsPerSecond / 2 + 6 * kNsPerMs);
  Complete(1, *running);
  EXPECT_EQ(Done().size(), 1u);
  Complete(0, *ahead);
  ASSERT_THAT(Done(), ElementsAre(probe));
  EXPECT_EQ(table_[probe].status, StatusCode::kDeadlineExceeded);
  EXPECT_THAT(table_[probe].message, HasSubstr("its target was 5.00 ms"));
}

}  // namespace
}  // namespace abacus
