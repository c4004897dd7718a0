// Jobs of several queries: what may share one, what they cost each other, and how policies wait for more.
#include <gmock/gmock.h>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class JobsOfSeveralQueries : public SchedulerLoopTest {
 protected:
  // A policy that puts all that waits of a service into one job in this bucket, in halves.
  std::unique_ptr<Policy> Together(uint32_t bucket = 2) {
    return std::make_unique<ScriptedPolicy>([this, bucket](const Snapshot& snapshot) {
      Plan plan;
      for (const ServiceView& service : snapshot.services) {
        if (!service.idle() || !service.has_work()) continue;
        if (service.unfinished != nullptr) {
          urged_ns_ = service.unfinished->due_ns();
          plan.assignments.push_back(Candidate::Resume(service).UpTo(service.unfinished->operators));
          continue;
        }
        Assignment assignment{service.id, false, {}, bucket, 0, 5};
        for (uint32_t i = 0; i < service.waiting.size(); ++i) assignment.queries.push_back(i);
        plan.assignments.push_back(assignment);
      }
      return plan;
    });
  }
  void StartTogether(bool abandon = false) {
    config_ = test::TwoServices("fcfs");
    config_.scheduler.abandon = abandon;
    config_.services[0].queue_limit = 3;
    StartWith(Together());
  }
  // Queries arrive while the worker is still loading, so that they wait together.
  std::vector<uint32_t> SubmitThree(uint64_t last_qos_ns = kNsPerSecond) {
    return {Submit(0), Submit(0), Submit(0, last_qos_ns)};
  }
  // Rows of the queries of each job that the worker is given, one job after another, until it gets no more.
  std::vector<std::vector<uint32_t>> RunJobs(uint32_t service) {
    std::vector<std::vector<uint32_t>> jobs;
    while (const auto command = TakeCommand(service)) {
      if (command->first == 0) {
        jobs.emplace_back();
        for (const JobQuery& query : QueriesOf(service, *command)) jobs.back().push_back(query.rows);
        buckets_.push_back(command->bucket);
      }
      Complete(service, *command);
    }
    return jobs;
  }

  uint64_t urged_ns_ = 0;          // by when the job in progress was due when the policy saw it
  std::vector<uint32_t> buckets_;  // of RunJobs
};

TEST_F(JobsOfSeveralQueries, RunAsOneAndAreAnsweredEach) {
  StartTogether();
  const std::vector<uint32_t> slots = SubmitThree();
  const uint32_t refused = Submit(0);
  EXPECT_THAT(Done(), ElementsAre(refused)) << "the limit counts queries";
  WorkerUp(0);
  const auto first = TakeCommand(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->query_count, 3u);
  Advance(kNsPerMs);
  EXPECT_EQ(stats(0).queued.load(), 3u) << "they have not been sent to the end";
  Complete(0, *first);
  const auto second = TakeCommand(0);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->job_id, first->job_id);
  EXPECT_EQ(second->query_count, 3u);
  now_ns_ += kSoloNs;
  Complete(0, *second);
  EXPECT_EQ(Done(), slots);
  for (const uint32_t slot : slots) {
    EXPECT_EQ(table_[slot].status, StatusCode::kOk);
    EXPECT_EQ(table_[slot].timing.rounds, 2u);
  }
  EXPECT_EQ(stats(0).replies[0].load(), 3u);
}

TEST_F(JobsOfSeveralQueries, AModelThatIsNotBatchableRunsOneQueryAtATime) {
  config_ = test::TwoServices("fcfs");
  config_.services[0].spec.batchable = false;
  StartWith(Together());
  const std::vector<uint32_t> slots = SubmitThree();
  WorkerUp(0);
  for (const uint32_t slot : slots) {
    const auto command = TakeCommand(0);
    ASSERT_TRUE(command);
    EXPECT_EQ(command->query_count, 1u);
    EXPECT_EQ(command->bucket, 0u) << "the query's own, whatever the policy asked for";
    EXPECT_EQ(command->last, 10u);
    Complete(0, *command);
    EXPECT_THAT(Done(), ElementsAre(slot));
  }
}

TEST_F(JobsOfSeveralQueries, ATensorWithoutRowsCannotBeSharedAndItsQueriesRunOneAtATime) {
  config_ = test::TwoServices("fcfs");
  config_.services[0].spec.inputs.push_back({"scale", DType::kFloat32, Shape{1}, {}, 0});
  StartWith(Together());
  Submit(0);
  Submit(0, kNsPerSecond, 2);
  WorkerUp(0);
  EXPECT_THAT(RunJobs(0), ElementsAre(ElementsAre(1), ElementsAre(2))) << "each has a scale of its own";
}

TEST_F(JobsOfSeveralQueries, AHopelessQueryIsLeftOutAndTheOthersRun) {
  StartTogether(/*abandon=*/true);
  const std::vector<uint32_t> slots = SubmitThree(kSoloNs / 2);
  WorkerUp(0);
  EXPECT_THAT(Done(), ElementsAre(slots[2]));
  EXPECT_EQ(table_[slots[2]].status, StatusCode::kDeadlineUnreachable);
  const auto first = TakeCommand(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->query_count, 2u);
}

TEST_F(JobsOfSeveralQueries, OneThatIsLateDoesNotTakeTheOthersWithIt) {
  StartTogether(/*abandon=*/true);
  const std::vector<uint32_t> slots = SubmitThree(2 * kSoloNs);
  WorkerUp(0);
  const auto first = TakeCommand(0);
  const uint64_t others_due_ns = table_[slots[0]].deadline_ns;
  EXPECT_EQ(urged_ns_, 0u) << "no job is in progress yet";
  Advance(3 * kSoloNs);  // the first half takes longer than the third query can wait
  Complete(0, *first);
  EXPECT_EQ(urged_ns_, others_due_ns) << "it does not make the job look late to policies";
  const auto second = TakeCommand(0);
  ASSERT_TRUE(second) << "the others still can";
  Complete(0, *second);
  EXPECT_THAT(Done(), ElementsAre(slots[2], slots[0], slots[1])) << "the most urgent is first";
  for (const uint32_t slot : slots) EXPECT_EQ(table_[slot].status, StatusCode::kOk);
  EXPECT_EQ(stats(0).violations.load(), 1u);
}

TEST_F(JobsOfSeveralQueries, AJobWhoseQueriesAreAllHopelessIsNotPlannedFurther) {
  StartTogether(/*abandon=*/true);
  const std::vector<uint32_t> slots = {Submit(0, 2 * kSoloNs), Submit(0, 2 * kSoloNs)};
  WorkerUp(0);
  const auto first = TakeCommand(0);
  Advance(3 * kSoloNs);
  EXPECT_THAT(Done(), IsEmpty()) << "the worker still uses their tensors";
  Complete(0, *first);
  EXPECT_THAT(Done(), UnorderedElementsAre(slots[0], slots[1]));
  for (const uint32_t slot : slots) EXPECT_EQ(table_[slot].status, StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(TakeCommand(0));
  EXPECT_EQ(stats(0).jobs.load(), 0u);
}

TEST_F(JobsOfSeveralQueries, AFailureAnswersAll) {
  StartTogether();
  const std::vector<uint32_t> slots = SubmitThree();
  WorkerUp(0);
  TakeCommand(0);
  Post(WorkerEvent::kDown, 0, "killed");
  EXPECT_EQ(Done(), slots);
  for (const uint32_t slot : slots) EXPECT_EQ(table_[slot].status, StatusCode::kWorkerFailed);
}

TEST_F(JobsOfSeveralQueries, WhatDoesNotFitTheBucketWaitsOn) {
  config_ = test::TwoServices("fcfs");
  StartWith(Together());
  Submit(0, kNsPerSecond, 2);
  Submit(0, kNsPerSecond, 3);
  Submit(0, kNsPerSecond, 1);
  Submit(0, kNsPerSecond, 1);
  WorkerUp(0);
  EXPECT_THAT(RunJobs(0), ElementsAre(ElementsAre(2, 1, 1), ElementsAre(3)));
  EXPECT_EQ(Done().size(), 4u);
  EXPECT_EQ(stats(0).jobs.load(), 2u);
  EXPECT_EQ(stats(0).job_rows.load(), 7u);
  EXPECT_EQ(stats(0).job_queries.load(), 4u);
  EXPECT_EQ(stats(0).padding_rows.load(), 1u);
}

TEST_F(JobsOfSeveralQueries, ABucketThatIsTooSmallForTheMostUrgentIsNotUsed) {
  config_ = test::TwoServices("fcfs");
  StartWith(Together(/*bucket=*/0));
  Submit(0, kNsPerSecond, 3);
  Submit(0, kNsPerSecond, 1);
  WorkerUp(0);
  EXPECT_THAT(RunJobs(0), ElementsAre(ElementsAre(3, 1)));
  EXPECT_THAT(buckets_, ElementsAre(2));
}

TEST_F(JobsOfSeveralQueries, MaxBatchBoundsThemAndOneQueryAloneMayExceedIt) {
  config_ = test::TwoServices("fcfs");
  config_.services[0].max_batch = 2;
  StartWith(Together());
  Submit(0, kNsPerSecond, 3);
  for (int i = 0; i < 3; ++i) Submit(0);
  WorkerUp(0);
  EXPECT_THAT(RunJobs(0), ElementsAre(ElementsAre(3), ElementsAre(1, 1), ElementsAre(1)));
}

TEST_F(JobsOfSeveralQueries, ThereAreNoneWhereBatchingIsOff) {
  for (const bool by_service : {false, true}) {
    config_ = test::TwoServices("fcfs");
    if (by_service) {
      config_.services[0].max_batch = 1;
    } else {
      config_.scheduler.batching = Batching::kOff;
    }
    StartWith(Together());
    Submit(0);
    Submit(0, kNsPerSecond, 2);
    buckets_.clear();
    WorkerUp(0);
    EXPECT_THAT(RunJobs(0), ElementsAre(ElementsAre(1), ElementsAre(2)));
    EXPECT_THAT(buckets_, ElementsAre(0, 2)) << "a job that loses its others takes the smallest bucket";
    for (const uint32_t slot : Done()) table_.Return(slot);
  }
}

TEST_F(JobsOfSeveralQueries, PoliciesSeeWhatAJobMayHold) {
  std::vector<uint32_t> seen;
  for (const uint32_t max_batch : {0u, 1u, 3u, 100u}) {
    config_ = test::TwoServices("fcfs");
    config_.services[0].max_batch = max_batch;
    StartWith(std::make_unique<ScriptedPolicy>([&](const Snapshot& snapshot) {
      seen.push_back(snapshot.services[0].max_batch);
      return Plan{};
    }));
    WorkerUp(0);
    table_.Return(Submit(0));
  }
  EXPECT_THAT(seen, ElementsAre(4, 1, 3, 4));
}

TEST_F(JobsOfSeveralQueries, SyntheticOnesAndOthersAreNotMixed) {
  config_ = test::TwoServices("fcfs");
  StartWith(Together());
  Submit(0);
  synthetic_ = true;
  Submit(0);
  Submit(0);
  synthetic_ = false;
  Submit(0);
  WorkerUp(0);
  EXPECT_THAT(RunJobs(0), ElementsAre(ElementsAre(1, 1), IsEmpty())) << "a synthetic job has no tensors";
  EXPECT_EQ(Done().size(), 4u);
  EXPECT_EQ(stats(0).job_queries.load(), 4u);
}

TEST_F(JobsOfSeveralQueries, WherePaddingChangesAnswersAllHaveTheBucketsLength) {
  config_ = test::TwoServices("fcfs");
  config_.services[1].spec.sequence_padding = SequencePadding::kExact;
  StartWith(Together(/*bucket=*/3));  // two rows of length 8
  Submit(1, kNsPerSecond, 1, 4);
  Submit(1, kNsPerSecond, 1, 8);
  Submit(1, kNsPerSecond, 1, 4);
  Submit(1, kNsPerSecond, 1, 8);
  WorkerUp(1);
  const auto first = TakeCommand(1);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->bucket, 0u) << "one row of length 4";
  EXPECT_EQ(first->query_count, 1u);
  Complete(1, *first);
  const auto second = TakeCommand(1);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->bucket, 3u);
  EXPECT_THAT(QueriesOf(1, *second), ElementsAre(Field(&JobQuery::sequence, 8u), Field(&JobQuery::sequence, 8u)));
}

TEST_F(JobsOfSeveralQueries, AShorterOneIsPaddedWhereThatChangesNothing) {
  config_ = test::TwoServices("fcfs");
  StartWith(Together(/*bucket=*/3));
  Submit(1, kNsPerSecond, 1, 3);
  Submit(1, kNsPerSecond, 1, 7);
  WorkerUp(1);
  const auto command = TakeCommand(1);
  ASSERT_TRUE(command);
  EXPECT_THAT(QueriesOf(1, *command), ElementsAre(Field(&JobQuery::sequence, 3u), Field(&JobQuery::sequence, 7u)));
}

TEST_F(JobsOfSeveralQueries, NonsenseOfAPolicyLosesNoQuery) {
  config_ = test::TwoServices("fcfs");
  std::vector<std::vector<uint32_t>> picks = {{}, {9}, {0, 0, 7, 1, 1}};
  StartWith(std::make_unique<ScriptedPolicy>([&](const Snapshot& snapshot) {
    Plan plan;
    if (!snapshot.services[0].serving || snapshot.services[0].waiting.size() < 2 || picks.empty()) return plan;
    Assignment assignment{ServiceId(0), false, {}, 60, 0, 10};  // there is no such bucket
    for (const uint32_t index : picks.front()) assignment.queries.push_back(index);
    picks.erase(picks.begin());
    plan.assignments.push_back(assignment);
    return plan;
  }));
  const std::vector<uint32_t> slots = {Submit(0), Submit(0, kNsPerSecond, 3)};
  WorkerUp(0);
  EXPECT_FALSE(TakeCommand(0));
  Step();
  EXPECT_FALSE(TakeCommand(0));
  Step();
  const auto command = TakeCommand(0);
  ASSERT_TRUE(command);
  EXPECT_EQ(command->bucket, 0u) << "the first one's own, which has no room for the second";
  EXPECT_EQ(command->query_count, 1u);
  Complete(0, *command);
  EXPECT_THAT(Done(), ElementsAre(slots[0]));
}

TEST_F(JobsOfSeveralQueries, APolicyThatWaitsIsAskedAgainWhenItSaid) {
  config_ = test::TwoServices("fcfs");
  const uint64_t start_ns = now_ns_ + 300 * kNsPerUs;
  StartWith(std::make_unique<ScriptedPolicy>(
      [start_ns](const Snapshot& snapshot) {
        Plan plan;
        const ServiceView& service = snapshot.services[0];
        if (!service.idle() || service.waiting.empty()) return plan;
        if (snapshot.now_ns < start_ns) {
          plan.wake_ns = start_ns;
        } else {
          plan.assignments.push_back(BeginAlone(service, 0).UpTo(10));
        }
        return plan;
      },
      /*in_rounds=*/false));
  WorkerUp(0);
  Submit(0);
  EXPECT_FALSE(TakeCommand(0));
  EXPECT_EQ(loop_->IdleNs(now_ns_), 300 * kNsPerUs);
  Advance(loop_->IdleNs(now_ns_));
  EXPECT_TRUE(TakeCommand(0));
  EXPECT_GT(loop_->IdleNs(now_ns_), 300 * kNsPerUs) << "nothing is waited for any more";
}

TEST_F(JobsOfSeveralQueries, TheTraceSaysWhatARoundWasChosenForAndWhatItsJobHeld) {
  config_ = test::TwoServices("fcfs");
  StartWith(std::make_unique<ScriptedPolicy>([](const Snapshot& snapshot) {
    Plan plan;
    const ServiceView& service = snapshot.services[1];
    if (!service.idle() || service.waiting.size() < 2) return plan;
    Assignment assignment{service.id, false, {}, 3, 0, 10};
    assignment.queries = {0, 1};
    plan.assignments.push_back(assignment);
    plan.urgent_order = service.waiting[1].order;
    plan.worth_per_time = 1.25f;
    return plan;
  }));
  WorkerUp(1);
  Submit(1);
  const uint32_t urgent = Submit(1, 2 * kNsPerSecond);
  Complete(1, TakeCommand(1).value_or(Command{}));
  const std::vector<TraceEvent> events = loop_->trace().Copy();
  const auto find = [&](TraceEvent::Kind kind, uint64_t id) {
    const auto is = [&](const TraceEvent& event) { return event.kind == kind && (id == 0 || event.id == id); };
    const auto found = std::ranges::find_if(events, is);
    return found == events.end() ? TraceEvent{} : *found;
  };
  const TraceEvent round = find(TraceEvent::kRound, 0), range = find(TraceEvent::kRange, 0);
  EXPECT_EQ(round.id, table_[urgent].id);
  EXPECT_EQ(round.service, ServiceId(1));
  EXPECT_NE(round.order, 0u);
  EXPECT_EQ(round.order, find(TraceEvent::kQuery, table_[urgent].id).order) << "the event of the query has it, too";
  EXPECT_EQ(round.worth_per_time, 1.25f);
  EXPECT_EQ(range.queries, 2u);
  EXPECT_EQ(range.rows, 2u);
  EXPECT_EQ(range.bucket_rows, 2u);
}

}  // namespace
}  // namespace abacus
