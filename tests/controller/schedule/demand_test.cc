#include "controller/schedule/demand.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;

// One service, whose passes take 2, 5 and 9 ms at batches of 1, 4 and 8: 2, 1.25 and 1.125 ms a row.
class DemandTest : public BatchFixture {
 protected:
  DemandTest() : BatchFixture(1) {
    SetShape(0, {1, 4, 8}, {}, kMs, kMs);
    latency_.SetBucket(ServiceId(0), 0, services_[0].buckets[0].cuts, 2 * kMs);
  }
  uint64_t Wait(uint64_t due_in_ms) { return WaitRows(0, kNowNs - kMs, kNowNs + due_in_ms * kMs); }
  Demand& Make(double margin = 0) {
    views_ = Views();
    snapshot_ = {kNowNs, views_, &latency_, margin};
    return demand_.emplace(snapshot_, views_[0]);
  }
  // In milliseconds from now; -1: never.
  static double Ms(uint64_t until_ns) {
    return until_ns == kNever ? -1 : static_cast<double>(until_ns - kNowNs) / static_cast<double>(kMs);
  }
  std::vector<uint32_t> BucketsWithin(uint64_t limit_ns) const {
    std::vector<uint32_t> buckets;
    for (const Way* way : demand_->BestWithin(limit_ns)) buckets.push_back(way->bucket);
    return buckets;
  }
  uint32_t FirstQuery(const Way& way) const { return demand_->UpTo(way, way.operators).queries.front(); }
  // The way that begins a job in this bucket.
  const Way& WayOf(uint32_t bucket) const {
    for (const Way& way : demand_->ways()) {
      if (way.bucket == bucket) return way;
    }
    ADD_FAILURE() << "no job in bucket " << bucket;
    return demand_->ways()[0];
  }

  static constexpr uint64_t kNowNs = 1000 * kMs;
  std::vector<ServiceView> views_;
  Snapshot snapshot_;
  std::optional<Demand> demand_;
};

TEST_F(DemandTest, AServiceIsAsUrgentAsTheEarliestThatWaitsThere) {
  Wait(30);
  const uint64_t order = Wait(20);
  Wait(40);
  const Demand& demand = Make();
  EXPECT_EQ(Ms(demand.due_ns()), 20);
  EXPECT_EQ(demand.order(), order);
  EXPECT_EQ(Ms(demand.last_due_ns()), 40);
  EXPECT_DOUBLE_EQ(demand.worth_ns(), 3 * 1.125 * kMs);
}

TEST_F(DemandTest, AnUnfinishedJobInheritsTheUrgencyOfWhatWaitsBehindIt) {
  const uint64_t job = Wait(30);
  RunInPart(0, 2);
  EXPECT_EQ(Ms(Make().due_ns()), 30);
  EXPECT_EQ(Ms(demand_->last_due_ns()), 30);
  EXPECT_DOUBLE_EQ(demand_->worth_ns(), 0.75 * 1.125 * kMs) << "a quarter has run";
  Wait(10);
  Wait(50);
  EXPECT_EQ(Ms(Make().due_ns()), 10);
  EXPECT_EQ(Ms(demand_->last_due_ns()), 50);
  EXPECT_EQ(demand_->order(), job);
  EXPECT_DOUBLE_EQ(demand_->worth_ns(), 2.75 * 1.125 * kMs);
}

TEST_F(DemandTest, TheRestOfAnUnfinishedJobIsTheOnlyWay) {
  for (int i = 0; i < 3; ++i) Wait(30);
  RunInPart(0, 6);
  Wait(10);
  const Demand& demand = Make();
  ASSERT_EQ(demand.ways().size(), 1u);
  const Way& rest = demand.ways()[0];
  EXPECT_EQ(rest.bucket, 1u);
  EXPECT_EQ(rest.first, 6u);
  EXPECT_EQ(rest.operators, kOperators);
  EXPECT_EQ(rest.solo_ns, 5 * kMs / 4);
  EXPECT_DOUBLE_EQ(rest.worth_ns, 3 * 1.125 * kMs / 4);
  EXPECT_EQ(Ms(rest.left_until_ns), 8) << "the one behind it needs 2 ms";
  EXPECT_THAT(demand.EndsOf(rest), ElementsAre(7, 8));
  const Assignment assignment = demand.UpTo(rest, 7);
  EXPECT_TRUE(assignment.resumes);
  EXPECT_TRUE(assignment.queries.empty());
  EXPECT_EQ(assignment.bucket, 1u);
  EXPECT_EQ(assignment.first, 6u);
  EXPECT_EQ(assignment.last, 7u);
}

TEST_F(DemandTest, EachBatchIsAWayAndLeavesTheOthersTheirTime) {
  for (int i = 0; i < 6; ++i) Wait(30 + i);
  const Demand& demand = Make();
  ASSERT_EQ(demand.ways().size(), 3u);
  EXPECT_EQ(Ms(WayOf(0).left_until_ns), 29) << "the second is due at 31 and needs 2";
  EXPECT_EQ(Ms(WayOf(1).left_until_ns), 32);
  EXPECT_EQ(Ms(WayOf(2).left_until_ns), -1) << "nobody is left";
  EXPECT_DOUBLE_EQ(WayOf(2).worth_ns, 6 * 1.125 * kMs);
  EXPECT_EQ(&demand.quickest(), &WayOf(0));
  const Assignment assignment = demand.UpTo(WayOf(1), 5);
  EXPECT_FALSE(assignment.resumes);
  EXPECT_THAT(assignment.queries, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(assignment.bucket, 1u);
  EXPECT_EQ(assignment.first, 0u);
  EXPECT_EQ(assignment.last, 5u);
  EXPECT_THAT(demand.EndsOf(WayOf(1)), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST_F(DemandTest, WithinALimitTheMostWorthPerTimeComesFirst) {
  for (int i = 0; i < 6; ++i) Wait(30);
  Make();  // worth per time: 0.56, 0.9 and 0.75
  EXPECT_THAT(BucketsWithin(kNever), ElementsAre(1, 2, 0));
  EXPECT_THAT(BucketsWithin(5 * kMs), ElementsAre(1, 0));
  EXPECT_THAT(BucketsWithin(5 * kMs - 1), ElementsAre(0));
  EXPECT_THAT(BucketsWithin(1), ElementsAre(0)) << "the quickest if none is within";
  Make(0.1);
  EXPECT_THAT(BucketsWithin(5 * kMs), ElementsAre(0)) << "the margin counts";
}

TEST_F(DemandTest, TheRoundMustEndWhileThereIsTimeForWhatIsLeft) {
  Wait(20);
  Wait(30);
  Make();
  EXPECT_EQ(Ms(demand_->UntilIfWaiting()), 18) << "alone it needs 2 ms";
  EXPECT_EQ(Ms(demand_->UntilIfCut(3 * kMs)), 17);
  EXPECT_EQ(Ms(demand_->UntilIfDone(WayOf(0))), 20) << "done by its own deadline, and by 28 for the other";
  Wait(21);
  Make();
  EXPECT_EQ(Ms(demand_->UntilIfDone(WayOf(0))), 19) << "the one at 21 is left, and needs 2";
  EXPECT_EQ(Ms(demand_->UntilIfDone(WayOf(1))), 20);
  Make(0.5);  // on 2.2 ms
  EXPECT_DOUBLE_EQ(Ms(demand_->UntilIfWaiting()), 20 - 2 - 1.1);
}

TEST_F(DemandTest, WhatCannotBeKeptBoundsNothing) {
  Wait(1);
  Make();
  EXPECT_EQ(Ms(demand_->UntilIfWaiting()), -1);
  EXPECT_EQ(Ms(demand_->UntilIfDone(WayOf(0))), -1);
  EXPECT_EQ(Ms(demand_->UntilIfCut(2 * kMs)), -1);
  EXPECT_EQ(Ms(demand_->UntilIfCut(kMs)), 0) << "just";
  Wait(10);
  Make();
  EXPECT_EQ(Ms(demand_->UntilIfDone(WayOf(0))), 8) << "but the other can";
}

TEST_F(DemandTest, ATieOfDueTimesGoesToTheOlder) {
  const uint64_t older = Wait(20);
  Wait(20);
  EXPECT_EQ(Make().order(), older);
}

// --- Too much ------------------------------------------------------------------------------------------------------

TEST_F(DemandTest, WithTooMuchToDoJobsBeginWithTheFirstThatMakesItInTheMostEfficientBatch) {
  for (const uint64_t due_in_ms : {3, 4, 8, 12, 13, 14, 15, 16, 17, 18}) Wait(due_in_ms);
  Demand& demand = Make();  // best: eight of the ten, in 9 ms
  EXPECT_FALSE(demand.too_much());
  EXPECT_EQ(FirstQuery(demand.quickest()), 0u);
  demand.ShedTheMostUrgent();
  EXPECT_TRUE(demand.too_much());
  EXPECT_EQ(FirstQuery(demand.quickest()), 3u) << "8 ms are too few, 12 are enough";
  EXPECT_THAT(demand.UpTo(WayOf(2), kOperators).queries, ElementsAre(3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(Ms(demand.due_ns()), 12) << "it is as urgent as what it would run";
  EXPECT_EQ(Ms(demand.UntilIfWaiting()), -1) << "what stays waiting bounds nothing";
  for (const Way& way : demand.ways()) EXPECT_EQ(Ms(demand.UntilIfDone(way)), 12) << "what runs is to be in time";
  EXPECT_EQ(Ms(demand.UntilIfCut(1)), -1);
}

TEST_F(DemandTest, TheMarginCountsForWhoMakesIt) {
  for (const uint64_t due_in_ms : {3, 9, 10, 11, 12, 13, 14, 15}) Wait(due_in_ms);
  Make(0.1).ShedTheMostUrgent();  // 9.92 ms
  EXPECT_EQ(FirstQuery(demand_->quickest()), 2u);
}

TEST_F(DemandTest, WithTooMuchToDoWhatIsHopelessIsServedInOrder) {
  for (const uint64_t due_in_ms : {1, 4, 12, 13, 14, 15, 16, 17}) Wait(due_in_ms);
  Make().ShedTheMostUrgent();
  EXPECT_EQ(FirstQuery(demand_->quickest()), 0u);
  for (const Way& way : demand_->ways()) EXPECT_EQ(Ms(demand_->UntilIfDone(way)), -1);
}

TEST_F(DemandTest, WithTooMuchToDoAndNobodyInTimeItBeginsWithTheMostUrgent) {
  for (int i = 0; i < 8; ++i) Wait(5);
  Make().ShedTheMostUrgent();
  EXPECT_EQ(FirstQuery(demand_->quickest()), 0u);
}

TEST_F(DemandTest, WithTooMuchToDoAnUnfinishedJobStillGoesOnFirst) {
  Wait(5);
  RunInPart(0, 3);
  for (int i = 0; i < 8; ++i) Wait(20);
  Make().ShedTheMostUrgent();
  ASSERT_EQ(demand_->ways().size(), 1u);
  EXPECT_EQ(demand_->ways()[0].choice, nullptr);
  EXPECT_EQ(Ms(demand_->UntilIfDone(demand_->ways()[0])), 5) << "its own deadline bounds it, those behind it do not";
}

}  // namespace
}  // namespace abacus
