// Several lanes under one scheduler, and the set of services that it takes over.
#include <gmock/gmock.h>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class LanesTest : public SchedulerLoopTest {
 protected:
  // A service on each of two GPUs.
  void StartTwoLanes() {
    config_ = test::TwoServices("edf");
    config_.scheduler.batching = Batching::kOff;
    config_.scheduler.lead_us = 1000;
    config_.worker.gpus = {"0", "1"};
    config_.services[1].gpu = "1";
    StartAsConfigured();
    WorkerUp(0);
    WorkerUp(1);
  }
  bool IsOpen(uint32_t lane_id, const Command& command) { return Gate(&lane(lane_id).gate).Reached(command.gate); }
  // A query of the service that takes this long, alone in its lane.
  void Run(uint32_t service, uint64_t took_ns) {
    Submit(service);
    const auto command = TakeCommand(service);
    ASSERT_TRUE(command);
    now_ns_ += took_ns;
    Complete(service, *command);
    for (const uint32_t done : Done()) table_.Return(done);
  }
};

TEST_F(LanesTest, TwoRoundsRunAtOnce) {
  StartTwoLanes();
  const uint32_t first = Submit(0), second = Submit(1);  // one at a time under edf: in each lane
  const auto a = TakeCommand(0), b = TakeCommand(1);
  ASSERT_TRUE(a && b);
  EXPECT_TRUE(IsOpen(0, *a));
  EXPECT_TRUE(IsOpen(1, *b));
  Complete(1, *b);
  EXPECT_THAT(Done(), ElementsAre(second)) << "the other lane's round still runs";
  Complete(0, *a);
  EXPECT_THAT(Done(), ElementsAre(first));
}

TEST_F(LanesTest, EachLaneOpensItsOwnGate) {
  StartTwoLanes();
  Submit(0);
  const auto running = TakeCommand(0);
  Submit(0);
  Submit(1);
  const auto other = TakeCommand(1);
  Advance(9 * kNsPerMs + 1);
  const auto ahead = TakeCommand(0);
  ASSERT_TRUE(running && other && ahead);
  EXPECT_FALSE(IsOpen(0, *ahead));
  Complete(1, *other);
  EXPECT_FALSE(IsOpen(0, *ahead)) << "the end of a round in another lane";
  Complete(0, *running);
  EXPECT_TRUE(IsOpen(0, *ahead));
}

TEST_F(LanesTest, EachLaneHasItsOwnMarginAndStatistics) {
  StartTwoLanes();
  Run(0, kSoloNs);
  Run(1, kSoloNs);
  Run(1, 3 * kSoloNs);
  EXPECT_EQ(lane(0).predictor.rounds.load(), 1u);
  EXPECT_EQ(lane(1).predictor.rounds.load(), 2u);
  EXPECT_EQ(lane(0).predictor.rounds_over.load(), 0u);
  EXPECT_EQ(lane(1).predictor.rounds_over.load(), 1u);
  EXPECT_LT(lane(0).predictor.margin_ppm.load(), lane(1).predictor.margin_ppm.load());
}

TEST_F(LanesTest, AWorkerThatDiesOrHangsConcernsItsLaneOnly) {
  StartTwoLanes();
  const uint32_t victim = Submit(0);
  ASSERT_TRUE(TakeCommand(0));
  const uint32_t other = Submit(1);
  const auto beside = TakeCommand(1);
  Advance(2 * kNsPerSecond);
  EXPECT_EQ(control_.condemned.size(), 2u) << "neither has answered";
  Post(WorkerEvent::kDown, 0, "hung");
  EXPECT_THAT(Done(), ElementsAre(victim));
  Complete(1, *beside);
  EXPECT_THAT(Done(), ElementsAre(other));
  EXPECT_EQ(table_[other].status, StatusCode::kOk);
}

TEST_F(SchedulerLoopTest, NewsOfAProcessThatHasASuccessorIsIgnored) {
  Start("fcfs");
  WorkerUp(0);
  WorkerUp(0);  // its successor
  const uint32_t slot = Submit(0);
  const auto command = TakeCommand(0);
  loop_->Post({WorkerEvent::kDown, {WorkerId(0), 1}, "the first one"});
  Step();
  EXPECT_THAT(control_.released, IsEmpty());
  Complete(0, *command);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
}

TEST_F(SchedulerLoopTest, CommandsNameTheRowsOfTheirQueries) {
  Start("fcfs");
  WorkerUp(0);
  WorkerUp(1);
  const uint32_t slot = table_.Acquire().value();
  Query& query = table_[slot];
  query.service = services_->services()[1];
  query.rows = 2;
  query.sequence = 7;
  query.block = {.offset_bytes = 4096, .bytes = 512};
  query.arrival_ns = now_ns_;
  query.deadline_ns = now_ns_ + kNsPerSecond;
  channel_.submitted.push(slot);
  Step();
  const auto command = TakeCommand(1);
  ASSERT_TRUE(command);
  EXPECT_EQ(command->bucket, 3u) << "batch 2, sequence 8: chosen when the job was formed";
  ASSERT_EQ(command->query_count, 1u);
  const JobQuery& rows = worker_slot(1).queries[command->query_table][0];
  EXPECT_EQ(rows.block_offset, 4096u);
  EXPECT_EQ(rows.block_bytes, 512u);
  EXPECT_EQ(rows.rows, 2u);
  EXPECT_EQ(rows.sequence, 7u);
  EXPECT_EQ(rows.first_row, 0u);
  EXPECT_EQ(rows.query_rows, 2u);
}

TEST_F(SchedulerLoopTest, APublishedSetIsUsedFromThenOn) {
  Start("fcfs");
  WorkerUp(0);
  for (int i = 0; i < 4; ++i) Submit(0);  // one runs, three wait: its queue is full
  config_.services[0].queue_limit = 4;
  config_.services.push_back(config_.services[1]);
  config_.services.back().name = "another";
  services_ = MakeServiceSet(config_);
  loop_->Publish(services_);
  Submit(0);
  EXPECT_THAT(Done(), IsEmpty());
  WorkerUp(2);
  const uint32_t slot = Submit(2);
  EXPECT_EQ(stats(2).accepted.load(), 1u);
  Complete(0, *TakeCommand(0));
  for (int i = 0; i < 4; ++i) Complete(0, *TakeCommand(0));
  const auto command = TakeCommand(2);
  ASSERT_TRUE(command);
  Complete(2, *command);
  EXPECT_EQ(Done().back(), slot);
  EXPECT_EQ(table_[slot].status, StatusCode::kOk);
}

TEST_F(SchedulerLoopTest, AQueryMayComeBeforeTheSetThatItsServiceIsIn) {
  Start("fcfs");
  config_.services.push_back(config_.services[1]);
  config_.services.back().name = "another";
  services_ = MakeServiceSet(config_);  // the front end has it already, the scheduler has not
  const uint32_t slot = Submit(2);
  EXPECT_THAT(Done(), IsEmpty());
  loop_->Publish(services_);
  WorkerUp(2);
  Complete(2, *TakeCommand(2));
  EXPECT_THAT(Done(), ElementsAre(slot));
}

TEST_F(SchedulerLoopTest, AnUnknownWorkerThatDiedGivesItsSlotBack) {
  Start("fcfs");
  loop_->Post({WorkerEvent::kDown, {WorkerId(5), 1}, "could not be started"});
  Step();
  EXPECT_THAT(control_.released, ElementsAre(WorkerRef{WorkerId(5), 1}));
}

TEST_F(SchedulerLoopTest, WhileItsWorkerIsDownAQueryWaitsToItsDeadline) {
  Start("fcfs", /*abandon=*/true);
  WorkerUp(0);
  Post(WorkerEvent::kDown, 0, "killed");
  const uint32_t slot = Submit(0, kSoloNs + kSoloNs / 2);
  Advance(kSoloNs);  // a pass would take longer than what is left
  EXPECT_THAT(Done(), IsEmpty());
  Advance(kSoloNs);
  EXPECT_THAT(Done(), ElementsAre(slot));
  EXPECT_EQ(table_[slot].status, StatusCode::kDeadlineExceeded);
}

TEST_F(SchedulerLoopTest, APlanThatCannotBeSentLeavesTheQueryWaiting) {
  Start("free");
  WorkerUp(0);
  Command filler;
  while (worker_slot(0).commands.TryPush(filler)) {
  }
  const uint32_t slot = Submit(0);
  ASSERT_EQ(control_.condemned.size(), 1u);
  EXPECT_THAT(control_.condemned[0].second, HasSubstr("does not take commands"));
  EXPECT_THAT(Done(), IsEmpty());
  Post(WorkerEvent::kDown, 0, "ended");
  EXPECT_THAT(Done(), IsEmpty()) << "nothing of it had run";
  WorkerUp(0);
  Complete(0, *TakeCommand(0));
  EXPECT_THAT(Done(), ElementsAre(slot));
}

}  // namespace
}  // namespace abacus
