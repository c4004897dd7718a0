// Which batches and groups the policy "abacus" chooses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "controller/schedule/headroom_policy.h"
#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class HeadroomBatchesTest : public BatchFixture {
 protected:
  HeadroomBatchesTest() : BatchFixture(3) {}

  // A pass takes base_ms, and row_ms for each row.
  void Shape(uint32_t service, std::vector<int64_t> batches, uint64_t base_ms, uint64_t row_ms) {
    SetShape(service, std::move(batches), {}, base_ms * kMs, row_ms * kMs);
  }
  void Wait(uint32_t service, uint64_t due_in_ms, uint32_t count = 1, uint32_t rows = 1) {
    for (uint32_t i = 0; i < count; ++i) WaitRows(service, kNowNs - kMs, kNowNs + due_in_ms * kMs, rows);
  }
  // One more in no hurry, so that the service does not have too much to do (demand.h).
  void WaitLong(uint32_t service) { Wait(service, 10'000); }
  Plan Next(Packing packing = Packing::kBalanced) {
    const std::vector<ServiceView> views = Views();
    return HeadroomPolicy(packing).Next({kNowNs, views, &model_, 0});
  }
  struct Range {
    uint32_t service = 0;
    int64_t batch = 0;       // of the bucket
    uint32_t first = 0;      // index of its most urgent query
    size_t queries = 0;      // 0: the unfinished job
    uint32_t operators = 0;  // in this round
    friend bool operator==(const Range&, const Range&) = default;
    friend void PrintTo(const Range& range, std::ostream* stream) {
      *stream << "service " << range.service << ", batch " << range.batch << ", queries from " << range.first
              << " on: " << range.queries << ", operators " << range.operators;
    }
  };
  std::vector<Range> Ranges(const Plan& plan) const {
    std::vector<Range> all;
    for (const Assignment& a : plan.assignments) {
      all.push_back({a.service.value(), services_[a.service.value()].spec.bucket(a.bucket).batch,
                     a.queries.empty() ? 0 : a.queries.front(), a.queries.size(), a.last - a.first});
    }
    return all;
  }
  std::vector<Range> NextRanges(Packing packing = Packing::kBalanced) { return Ranges(Next(packing)); }

  static constexpr uint64_t kNowNs = 1000 * kMs;
  PartialOverlap model_{&latency_};
};

// --- The most urgent job -------------------------------------------------------------------------------------------

TEST_F(HeadroomBatchesTest, WithTimeTheMostUrgentGoesWithTheGreedyBatch) {
  Shape(0, {1, 4, 8}, 2, 1);  // 3, 6, 10 ms
  Wait(0, 100, 7);
  const Plan plan = Next();
  EXPECT_THAT(Ranges(plan), ElementsAre(Range{0, 8, 0, 7, kOperators}));
  EXPECT_EQ(plan.urgent_order, 1u);
  EXPECT_FLOAT_EQ(plan.worth_per_time, 7.0f / 8);
}

TEST_F(HeadroomBatchesTest, ItsOwnDeadlineBoundsTheBatch) {
  Shape(0, {1, 4, 8}, 2, 1);
  WaitLong(0);
  Wait(0, 9);
  Wait(0, 200, 6);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 4, 0, 4, kOperators})) << "eight take 10 ms";
}

TEST_F(HeadroomBatchesTest, TheOthersDeadlinesBoundTheBatchOfTheMostUrgent) {
  model_.cost = 1;  // nobody joins
  Shape(0, {1, 4, 8}, 2, 1);
  Shape(1, {1}, 20, 0);
  WaitLong(0);
  WaitLong(1);
  Wait(0, 20, 7);
  for (const auto& [due_in_ms, batch] : {std::pair{40, 8}, {30, 8}, {29, 4}, {26, 4}, {25, 1}, {23, 1}}) {
    Wait(1, static_cast<uint64_t>(due_in_ms));
    EXPECT_THAT(NextRanges(), ElementsAre(testing::Field(&Range::batch, batch))) << due_in_ms;
    services_[1].waiting.erase(services_[1].waiting.begin());
  }
}

TEST_F(HeadroomBatchesTest, WhoCannotWaitForTheQuickestDoesNotBoundIt) {
  model_.cost = 1;
  Shape(0, {1, 4, 8}, 2, 1);
  Shape(1, {1}, 20, 0);
  WaitLong(0);
  WaitLong(1);
  Wait(0, 20, 7);
  Wait(1, 22);  // could begin in 2 ms at the latest; the quickest takes 3
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 0, 8, kOperators}));
}

TEST_F(HeadroomBatchesTest, WhatStaysBehindInTheServiceBoundsItToo) {
  Shape(0, {1, 2, 8}, 2, 1);  // 3, 4, 10 ms
  WaitLong(0);
  Wait(0, 30, 1, 2);
  Wait(0, 12, 1, 2);  // alone it takes 4 ms
  Shape(1, {1}, 6, 0);
  WaitLong(1);
  Wait(1, 11);
  model_.cost = 0.9;
  // Service 1 is the most urgent. Beside it, service 0 may do no more than keeps 12 ms.
  const Plan plan = Next();
  ASSERT_THAT(plan.assignments, testing::Not(IsEmpty()));
  EXPECT_EQ(plan.assignments[0].service, ServiceId(1));
  std::vector<OperatorRange> group;
  for (const Assignment& a : plan.assignments) group.push_back(a.range());
  const bool done = plan.assignments.size() > 1 && plan.assignments[1].last == kOperators;
  EXPECT_LE(model_.PredictNs(group), (done ? 12 : 8) * kMs);
}

TEST_F(HeadroomBatchesTest, WhatRanInPartGoesOnBeforeAnyBatch) {
  Shape(0, {1, 4}, 2, 1);
  Wait(0, 500, 3);
  RunInPart(0, 5);
  Wait(0, 50, 4);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 4, 0, 0, 3}));
}

// --- Who joins -----------------------------------------------------------------------------------------------------

TEST_F(HeadroomBatchesTest, OthersJoinWithABatchWhereTheRoundIsWorthMorePerTime) {
  Shape(0, {1, 8}, 2, 1);
  Shape(1, {1, 8}, 2, 1);
  Wait(0, 100, 8);
  Wait(1, 120, 8);
  model_.cost = 0.5;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 0, 8, kOperators}, Range{1, 8, 0, 8, kOperators}));
  EXPECT_FLOAT_EQ(Next().worth_per_time, 20.0f / 15);
  model_.cost = 1;
  EXPECT_THAT(NextRanges(), SizeIs(1)) << "it gains nothing";
  EXPECT_FLOAT_EQ(Next().worth_per_time, 1);
}

TEST_F(HeadroomBatchesTest, APoorBatchDoesNotJoinAFullOne) {
  Shape(0, {1, 8}, 2, 1);
  Shape(1, {1, 16}, 10, 0);  // alone its one row costs sixteen times what it is worth
  Wait(0, 100, 8);
  Wait(1, 120);
  model_.cost = 0.5;  // the group takes less than the two one after another
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 0, 8, kOperators}));
  EXPECT_THAT(NextRanges(Packing::kFurthest), SizeIs(2)) << "which does not look at worth";
  Wait(1, 120, 15);
  EXPECT_THAT(NextRanges(), SizeIs(2)) << "sixteen do";
}

TEST_F(HeadroomBatchesTest, AJoinerTakesTheBatchWithWhichEveryDeadlineIsKept) {
  Shape(0, {1}, 10, 0);
  Shape(1, {1, 4, 16}, 4, 1);  // 5, 8, 20 ms
  WaitLong(0);
  WaitLong(1);
  model_.cost = 0.5;
  Wait(0, 20);
  Wait(1, 100, 16);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators}, Range{1, 16, 0, 16, 4}))
      << "ten of its 20 ms beside the ten: all end together";
  services_[1].waiting.clear();
  WaitLong(1);
  Wait(1, 24, 16);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators}, Range{1, 4, 0, 4, kOperators}))
      << "the large batch would end at 25 ms, however it is cut";
}

TEST_F(HeadroomBatchesTest, FurthestJoinsWithAllOfItsBestBatchUntilOneDoesNotFit) {
  for (uint32_t s = 0; s < 3; ++s) {
    Shape(s, {1, 8}, 2, 1);
    WaitLong(s);
  }
  model_.cost = 0.5;
  Wait(0, 18, 8);
  Wait(1, 300, 8);
  Wait(2, 400, 8);
  const std::vector<Range> ranges = NextRanges(Packing::kFurthest);
  EXPECT_THAT(ranges, ElementsAre(Range{0, 8, 0, 8, kOperators}, Range{1, 8, 0, 8, kOperators}, Range{2, 8, 0, 8, 4}))
      << "15 ms, and 5 / 8 of a ms for each operator more";
}

TEST_F(HeadroomBatchesTest, TheMostUrgentTakesASmallerBatchWhereTheRoundIsWorthMoreWithIt) {
  Shape(0, {1, 4, 8}, 2, 1);  // 3, 6, 10 ms
  Shape(1, {1}, 6, 0);
  Wait(0, 1000, 8);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 0, 8, kOperators}));
  Wait(1, 1000);
  model_.cost = 0;  // 16 ms of work in 10, or 11 in 6
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 4, 0, 4, kOperators}, Range{1, 1, 0, 1, kOperators}));
}

// --- Horizon -------------------------------------------------------------------------------------------------------

TEST_F(HeadroomBatchesTest, NoJobIsLargerThanHalfTheShortestTargetAllows) {
  Shape(0, {1, 4, 8}, 2, 1);
  Shape(1, {1}, 2, 0);
  Wait(0, 500, 8);
  services_[0].view.qos_ns = 500 * kMs;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 0, 8, kOperators}));
  services_[1].view.qos_ns = 12 * kMs;  // nothing waits there, but may arrive
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 4, 0, 4, kOperators})) << "6 ms";
}

TEST_F(HeadroomBatchesTest, AJobLongerThanTheHorizonIsCut) {
  Shape(0, {1}, 80, 0);
  Shape(1, {1}, 5, 0);
  Wait(0, 500);
  services_[1].view.qos_ns = 50 * kMs;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, 2})) << "20 of 25 ms";
  services_[1].view.qos_ns = 12 * kMs;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, 1})) << "one interval at least";
  services_[1].view.qos_ns = 10 * kMs;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators}))
      << "a target that its own pass uses up by half cannot be kept beside others";
  services_[1].view.qos_ns = 50 * kMs;
  services_[1].view.serving = false;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators})) << "it is down";
}

TEST_F(HeadroomBatchesTest, NobodyJoinsBeyondTheHorizon) {
  Shape(0, {1}, 10, 0);
  Shape(1, {1}, 10, 0);
  Wait(0, 500);
  Wait(1, 600);
  model_.cost = 0.5;
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators}, Range{1, 1, 0, 1, kOperators})) << "15 ms";
  services_[0].view.qos_ns = 26 * kMs;
  const std::vector<Range> ranges = NextRanges();
  ASSERT_THAT(ranges, SizeIs(2));
  EXPECT_LE(ranges[1].operators, 4u) << "13 ms";
}

// --- Too much ------------------------------------------------------------------------------------------------------

TEST_F(HeadroomBatchesTest, WithTooMuchToDoItBeginsWithTheFirstThatAFullBatchKeeps) {
  Shape(0, {1, 4, 8}, 2, 1);  // a row is worth 1.25 ms
  Wait(0, 5);
  Wait(0, 9);
  Wait(0, 10, 4);
  Wait(0, 30, 4);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 2, 8, kOperators})) << "12.5 ms of work for 30 ms";
  ClearWork();
  Wait(0, 5);
  Wait(0, 9);
  Wait(0, 10, 4);
  Wait(0, 32, 4);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators})) << "12.5 ms for 32: not too much";
}

TEST_F(HeadroomBatchesTest, WhatTheOthersHaveToDoUntilThenCountsToo) {
  for (uint32_t s = 0; s < 3; ++s) Shape(s, {1, 4, 8}, 2, 1);
  model_.cost = 1;
  Wait(0, 5);
  Wait(0, 40, 7);  // 10 ms of work for 40
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators}));
  Wait(1, 30, 8);  // 10 for 30, and both for 40: so what 0 would run is due in 40, and 1 goes first
  EXPECT_THAT(NextRanges(), ElementsAre(Range{1, 8, 0, 8, kOperators}));
  services_[1].waiting.clear();
  Wait(2, 600, 20);  // 35 for 600
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 1, 0, 1, kOperators}));
  services_[2].waiting.clear();
  Wait(2, 60, 20);  // 35 for 60: whoever has to be done before sheds, too
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 1, 7, kOperators}));
}

TEST_F(HeadroomBatchesTest, WhatIsHopelessIsServedInOrderByFullBatches) {
  Shape(0, {1, 4, 8}, 2, 1);
  Wait(0, 1, 20);
  Wait(0, 30, 20);
  EXPECT_THAT(NextRanges(), ElementsAre(Range{0, 8, 0, 8, kOperators}));
}

}  // namespace
}  // namespace abacus
