// Queries that are cancelled, and queries with more rows than the largest bucket, which run in parts: one answer each,
// whatever becomes of their jobs.
#include <gmock/gmock.h>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// Service 0 has buckets of 1, 2 and 4 rows.
class PartsTest : public SchedulerLoopTest {
 protected:
  static constexpr uint32_t kRows = 10;  // of a query in parts: 4, 4 and 2

  void StartParts(bool abandon = false) {
    config_ = test::TwoServices("edf");
    config_.scheduler.abandon = abandon;
    config_.scheduler.lead_us = 1000;
    config_.scheduler.batching = Batching::kOff;
    config_.services[0].queue_limit = 3;
    StartAsConfigured();
  }
  uint32_t SubmitParts(uint64_t qos_ns = kNsPerSecond) { return Submit(0, qos_ns, kRows); }
  // The first part runs, the second was sent ahead.
  struct TwoParts {
    uint32_t slot = 0;
    Command first, second;
  };
  TwoParts SendTwoParts() {
    TwoParts sent;
    sent.slot = SubmitParts();
    sent.first = TakeCommand(0).value();
    Advance(9 * kNsPerMs + 1);
    sent.second = TakeCommand(0).value();
    return sent;
  }
};

TEST_F(PartsTest, EachHasAJobAndTheLastOneAnswers) {
  StartParts();
  WorkerUp(0);
  now_ns_ += kNsPerMs;
  const uint32_t slot = SubmitParts();
  const uint32_t small = Submit(0);
  const std::vector<std::array<uint32_t, 3>> expected = {{2, 0, 4}, {2, 4, 4}, {1, 8, 2}};  // bucket, first row, rows
  for (const auto& [bucket, first_row, rows] : expected) {
    EXPECT_THAT(Done(), IsEmpty());
    const auto command = TakeCommand(0);
    ASSERT_TRUE(command);
    EXPECT_EQ(command->bucket, bucket);
    const std::vector<JobQuery> queries = QueriesOf(0, *command);
    ASSERT_EQ(queries.size(), 1u);
    EXPECT_EQ(queries[0].first_row, first_row);
    EXPECT_EQ(queries[0].rows, rows);
    EXPECT_EQ(queries[0].query_rows, kRows);
    EXPECT_EQ(queries[0].block_offset, slot * kBlockBytes);
    now_ns_ += 7 * kNsPerMs;
    Complete(0, *command);
  }
  EXPECT_THAT(Done(), ElementsAre(slot));
  const Query& query = table_[slot];
  EXPECT_EQ(query.status, StatusCode::kOk);
  EXPECT_EQ(query.timing.rounds, 3u);
  EXPECT_EQ(query.timing.queued_us, 0u) << "until its first part began";
  EXPECT_EQ(query.timing.executed_us, 21'000u);
  EXPECT_GT(query.timing.predicted_us, 20'000u) << "of all parts";
  Complete(0, TakeCommand(0).value_or(Command{}));
  EXPECT_THAT(Done(), ElementsAre(small));
  EXPECT_EQ(stats(0).accepted.load(), 2u);
  EXPECT_EQ(stats(0).replies[0].load(), 2u);
  EXPECT_EQ(stats(0).jobs.load(), 4u);
  EXPECT_EQ(stats(0).job_rows.load(), 11u);
  EXPECT_EQ(stats(0).job_queries.load(), 4u);
  EXPECT_EQ(stats(0).padding_rows.load(), 0u);
}

TEST_F(PartsTest, ALastPartSharesAJobAndAFullOneCannot) {
  config_ = test::TwoServices("edf");
  StartAsConfigured();
  const uint32_t slot = SubmitParts();
  const uint32_t small = Submit(0);
  WorkerUp(0);
  std::vector<size_t> queries;
  while (const auto command = TakeCommand(0)) {
    queries.push_back(QueriesOf(0, *command).size());
    Complete(0, *command);
  }
  EXPECT_THAT(queries, ElementsAre(1, 1, 2));
  EXPECT_THAT(Done(), UnorderedElementsAre(slot, small));
}

TEST_F(PartsTest, LimitAndStatisticsCountTheQuery) {
  StartParts();
  for (int i = 0; i < 3; ++i) SubmitParts();
  EXPECT_THAT(Done(), IsEmpty());
  const uint32_t refused = SubmitParts();
  EXPECT_THAT(Done(), ElementsAre(refused));
  EXPECT_EQ(table_[refused].status, StatusCode::kOverloaded);
  Advance(2 * kNsPerMs);
  EXPECT_EQ(stats(0).queued.load(), 3u);
  WorkerUp(0);
  for (int part = 0; part < 2; ++part) Complete(0, TakeCommand(0).value_or(Command{}));
  Advance(2 * kNsPerMs);
  EXPECT_EQ(stats(0).queued.load(), 2u) << "the last part of the first query was sent";
  Submit(0);
  EXPECT_THAT(Done(), IsEmpty()) << "and makes room";
}

TEST_F(PartsTest, TheFailureOfOneIsTheAnswerAndDropsThoseThatWait) {
  StartParts();
  WorkerUp(0);
  const uint32_t slot = SubmitParts();
  const uint32_t other = Submit(0);
  StoreText(worker_slot(0).error, "index out of range");
  Complete(0, *TakeCommand(0), StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kWorkerFailed);
  EXPECT_EQ(table_[slot].message, "index out of range");
  const auto next = TakeCommand(0);
  ASSERT_TRUE(next);
  EXPECT_EQ(QueriesOf(0, *next)[0].block_offset, other * kBlockBytes);
  Complete(0, *next);
  EXPECT_THAT(Done(), ElementsAre(other));
  EXPECT_EQ(table_[other].status, StatusCode::kOk);
}

TEST_F(PartsTest, AFailureIsAnsweredOnceNoWorkerHasThemAnyMore) {
  StartParts();
  WorkerUp(0);
  const TwoParts sent = SendTwoParts();
  StoreText(worker_slot(0).error, "the first part");
  Complete(0, sent.first, StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), IsEmpty()) << "the second part uses the query's tensors";
  Complete(0, sent.second);
  EXPECT_THAT(Done(), ElementsAre(sent.slot));
  EXPECT_EQ(table_[sent.slot].status, StatusCode::kWorkerFailed);
  EXPECT_EQ(table_[sent.slot].message, "the first part");
  EXPECT_FALSE(TakeCommand(0)) << "the third";
  EXPECT_EQ(loop_->InFlight(), 0u);
}

TEST_F(PartsTest, AWorkerThatDiesWithSomeOfThemIsOneAnswer) {
  StartParts();
  WorkerUp(0);
  const TwoParts sent = SendTwoParts();
  const uint32_t other = Submit(0);
  Post(WorkerEvent::kDown, 0, "killed by signal 9");
  EXPECT_THAT(Done(), ElementsAre(sent.slot));
  EXPECT_EQ(table_[sent.slot].status, StatusCode::kWorkerFailed);
  EXPECT_THAT(table_[sent.slot].message, HasSubstr("signal 9"));
  WorkerUp(0);
  Complete(0, TakeCommand(0).value_or(Command{}));
  EXPECT_THAT(Done(), ElementsAre(other));
}

TEST_F(PartsTest, OneThatWaitsTooLongIsTheAnswer) {
  StartParts(/*abandon=*/true);
  WorkerUp(0);
  const uint32_t slot = SubmitParts(28 * kNsPerMs);  // each part takes 10 ms: the third would need until 30
  for (int part = 0; part < 2; ++part) {
    const auto command = TakeCommand(0);
    ASSERT_TRUE(command);
    now_ns_ += kSoloNs;
    EXPECT_THAT(Done(), IsEmpty());
    Complete(0, *command);
  }
  EXPECT_FALSE(TakeCommand(0));
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kDeadlineUnreachable);
  EXPECT_EQ(table_[slot].timing.rounds, 2u);
}

TEST_F(PartsTest, ShutdownAnswersTheWholeOnceItsJobHasEnded) {
  StartParts();
  WorkerUp(0);
  const uint32_t slot = SubmitParts();
  const auto running = TakeCommand(0);
  Post(WorkerEvent::kShutDown, 0, "the controller is shutting down");
  EXPECT_THAT(Done(), IsEmpty());
  Complete(0, *running);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kShuttingDown);
  EXPECT_FALSE(TakeCommand(0));
}

// --- Cancellation --------------------------------------------------------------------------------------------------

TEST_F(PartsTest, ACancelledQueryThatWaitsIsAnsweredAtOnce) {
  StartParts();
  WorkerUp(0);
  const uint32_t running = Submit(0);
  const auto command = TakeCommand(0);
  const uint32_t before = Submit(0), cancelled = Submit(0), after = Submit(0);
  now_ns_ += 3 * kNsPerMs;
  Cancel(cancelled);
  EXPECT_THAT(Done(), ElementsAre(cancelled));
  EXPECT_EQ(table_[cancelled].status, StatusCode::kCancelled);
  EXPECT_EQ(table_[cancelled].timing.queued_us, 3000u);
  EXPECT_EQ(stats(0).replies[static_cast<size_t>(StatusCode::kCancelled)].load(), 1u);
  EXPECT_EQ(stats(0).violations.load(), 0u);
  Submit(0);
  EXPECT_THAT(Done(), IsEmpty()) << "its place in the queue is free";
  Complete(0, *command);
  for (int i = 0; i < 2; ++i) Complete(0, TakeCommand(0).value_or(Command{}));
  EXPECT_THAT(Done(), ElementsAre(running, before, after));
}

TEST_F(PartsTest, ACancelledMemberOfAJobIsAnsweredAtItsEndAndTheOthersDoNotNotice) {
  config_ = test::TwoServices("edf");
  StartAsConfigured();
  const uint32_t first = Submit(0), cancelled = Submit(0), last = Submit(0);
  WorkerUp(0);
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command);
  ASSERT_EQ(command->query_count, 3u);
  Cancel(cancelled);
  EXPECT_THAT(Done(), IsEmpty()) << "the worker uses its tensors";
  now_ns_ += kSoloNs;
  Complete(0, *command);
  EXPECT_THAT(Done(), ElementsAre(first, cancelled, last));
  EXPECT_EQ(table_[first].status, StatusCode::kOk);
  EXPECT_EQ(table_[cancelled].status, StatusCode::kCancelled);
  EXPECT_EQ(table_[last].status, StatusCode::kOk);
  EXPECT_EQ(stats(0).jobs.load(), 1u);
}

// A policy that runs the most urgent query in halves, and no second half while `hold` is set.
class HalvesTest : public PartsTest {
 protected:
  void StartHalves() {
    config_ = test::TwoServices("edf");
    StartWith(std::make_unique<ScriptedPolicy>([this](const Snapshot& snapshot) {
      Plan plan;
      const ServiceView& service = snapshot.services[0];
      if (!service.idle() || !service.has_work()) return plan;
      if (service.unfinished == nullptr) {
        plan.assignments.push_back(BeginAlone(service, 0).UpTo(5));
      } else if (!hold_) {
        plan.assignments.push_back(Candidate::Resume(service).UpTo(10));
      }
      return plan;
    }));
    WorkerUp(0);
  }
  bool hold_ = false;
};

TEST_F(HalvesTest, AJobThatNobodyWantsAnyMoreEndsWithTheRangeThatRuns) {
  StartHalves();
  const uint32_t cancelled = Submit(0);
  const auto half = TakeCommand(0);
  ASSERT_TRUE(half);
  const uint32_t next = Submit(0);
  Cancel(cancelled);
  EXPECT_THAT(Done(), IsEmpty());
  Complete(0, *half);
  EXPECT_THAT(Done(), ElementsAre(cancelled));
  EXPECT_EQ(table_[cancelled].status, StatusCode::kCancelled);
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command);
  EXPECT_EQ(command->first, 0u) << "the next query's, not the second half";
  EXPECT_EQ(QueriesOf(0, *command)[0].block_offset, next * kBlockBytes);
  EXPECT_EQ(stats(0).jobs.load(), 0u);
}

TEST_F(HalvesTest, AJobThatNobodyWantsAnyMoreEndsAtOnceBetweenItsRanges) {
  StartHalves();
  const uint32_t cancelled = Submit(0);
  hold_ = true;
  Complete(0, *TakeCommand(0));
  EXPECT_FALSE(TakeCommand(0));
  Cancel(cancelled);
  EXPECT_THAT(Done(), ElementsAre(cancelled));
  Submit(0);
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command);
  EXPECT_EQ(command->first, 0u);
}

TEST_F(HalvesTest, TheFailureOfAPartEndsTheJobOfAnother) {
  StartHalves();
  const uint32_t slot = SubmitParts();
  const auto half = TakeCommand(0);
  Complete(0, *half);
  const auto rest = TakeCommand(0);
  ASSERT_TRUE(rest);
  EXPECT_EQ(rest->first, 5u);
  Advance(5 * kNsPerMs);  // half of the second part is sent ahead
  const auto ahead = TakeCommand(0);
  ASSERT_TRUE(ahead);
  EXPECT_EQ(ahead->first, 0u);
  EXPECT_EQ(QueriesOf(0, *ahead)[0].first_row, 4u);
  Complete(0, *rest, StatusCode::kWorkerFailed);
  EXPECT_THAT(Done(), IsEmpty());
  Complete(0, *ahead);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kWorkerFailed);
  EXPECT_FALSE(TakeCommand(0)) << "neither the rest of the second part nor the third";
}

TEST_F(PartsTest, ACancelledQueryInPartsRunsNoFurther) {
  StartParts();
  WorkerUp(0);
  const TwoParts sent = SendTwoParts();
  Cancel(sent.slot);
  EXPECT_THAT(Done(), IsEmpty());
  Complete(0, sent.first);
  EXPECT_THAT(Done(), IsEmpty());
  Complete(0, sent.second);
  EXPECT_THAT(Done(), ElementsAre(sent.slot));
  EXPECT_EQ(table_[sent.slot].status, StatusCode::kCancelled);
  EXPECT_FALSE(TakeCommand(0));
}

TEST_F(PartsTest, ACancelledQueryStaysCancelledWhenItsWorkerDies) {
  StartParts();
  WorkerUp(0);
  const uint32_t slot = Submit(0);
  ASSERT_TRUE(TakeCommand(0));
  Cancel(slot);
  Post(WorkerEvent::kDown, 0, "killed");
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kCancelled);
}

TEST_F(PartsTest, ACancellationThatComesTooLateDoesNotReachTheNextQueryOfTheSlot) {
  StartParts();
  WorkerUp(0);
  const uint32_t slot = Submit(0);
  Complete(0, *TakeCommand(0));
  EXPECT_THAT(Done(), ElementsAre(slot));
  channel_.submitted.push(slot | QueryChannel::kCancelBit);  // was on its way
  table_.Return(slot);
  EXPECT_EQ(Submit(0), slot) << "takes both in, in this order";
  Complete(0, *TakeCommand(0));
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
  Cancel(slot);
  EXPECT_THAT(Done(), IsEmpty()) << "nor is it answered twice";
  EXPECT_EQ(loop_->InFlight(), 0u);
}

}  // namespace
}  // namespace abacus
