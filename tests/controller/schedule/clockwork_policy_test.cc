#include "controller/schedule/clockwork_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Alone 1 row takes 1.1 ms, a batch of 2 takes 1.2, of 4 1.4, of 8 1.8.
class ClockworkPolicyTest : public BatchFixture {
 protected:
  ClockworkPolicyTest() : BatchFixture(2) {
    for (uint32_t s = 0; s < 2; ++s) SetShape(s, {1, 2, 4, 8}, {}, kMs, kMs / 10);
  }
  // `count` queries of a service, the first due `due_us` from now, each other one a little later.
  std::vector<uint64_t> WaitMany(uint32_t service, size_t count, uint64_t due_us) {
    std::vector<uint64_t> orders;
    for (size_t i = 0; i < count; ++i) orders.push_back(WaitRows(service, 10, now_ns_ + due_us * 1000 + i));
    return orders;
  }
  std::vector<Picked> PickedNow(double margin = 0) { return PickedBy(Next(policy_, now_ns_, margin)); }
  static std::vector<uint64_t> First(std::vector<uint64_t> orders, size_t count) {
    orders.resize(count);
    return orders;
  }

  const uint64_t now_ns_ = 1000 * kMs;
  const ClockworkPolicy policy_;
};

TEST_F(ClockworkPolicyTest, RunsTheLargestBatchThatKeepsItsEarliestDeadline) {
  struct Case {
    uint64_t due_us;
    size_t size;
  };
  for (const auto& [due_us, size] : {Case{1100, 1}, Case{1199, 1}, Case{1200, 2}, Case{1799, 4}, Case{1800, 8}}) {
    ClearWork();
    const std::vector<uint64_t> orders = WaitMany(0, 9, due_us);
    EXPECT_THAT(PickedNow(), ElementsAre(Picked{0, First(orders, size), static_cast<int64_t>(size)})) << due_us;
  }
}

TEST_F(ClockworkPolicyTest, TheMarginCounts) {
  const std::vector<uint64_t> orders = WaitMany(0, 8, 1500);
  EXPECT_THAT(PickedNow(0.0), ElementsAre(Picked{0, First(orders, 4), 4}));
  EXPECT_THAT(PickedNow(0.1), ElementsAre(Picked{0, First(orders, 2), 2})) << "1.4 + 0.1 * (1.4 + 0.2) is too much";
}

TEST_F(ClockworkPolicyTest, MixedRowsFillABatchUpToMaxBatch) {
  services_[0].view.max_batch = 6;
  const uint64_t a = WaitRows(0, 10, now_ns_ + 9 * kMs, 3);
  const uint64_t b = WaitRows(0, 10, now_ns_ + 10 * kMs, 2);
  WaitRows(0, 10, now_ns_ + 11 * kMs, 2);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{0, {a, b}, 8}));
}

TEST_F(ClockworkPolicyTest, TheServiceThatIsDueFirstGoesFirst) {
  WaitMany(0, 8, 5001);
  const std::vector<uint64_t> urgent = WaitMany(1, 1, 5000);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{1, urgent, 1}));
}

TEST_F(ClockworkPolicyTest, WhatWouldMissDoesNotRunWhileSomethingElseCanMakeIt) {
  WaitMany(0, 3, 1000);  // too late even alone
  const std::vector<uint64_t> others = WaitMany(0, 2, 8000);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{0, others, 2})) << "neither alone nor as company";
  const std::vector<uint64_t> elsewhere = WaitMany(1, 2, 4000);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{1, elsewhere, 2}));
}

TEST_F(ClockworkPolicyTest, WhatCanMakeItOnlyWithoutTheMarginGoesBeforeWhatCannotAtAll) {
  WaitMany(0, 8, 900);
  const std::vector<uint64_t> close = WaitMany(1, 8, 1150);
  EXPECT_THAT(PickedNow(0.1), ElementsAre(Picked{1, First(close, 1), 1})) << "1.1 + 0.1 * (1.1 + 0.2) is too much";
  const std::vector<uint64_t> safe = WaitMany(1, 1, 9000);
  EXPECT_THAT(PickedNow(0.1), ElementsAre(Picked{1, safe, 1}));
}

TEST_F(ClockworkPolicyTest, WhereAllIsLateTheMostUrgentServiceGetsItsGreedyBatch) {
  WaitMany(0, 8, 901);
  const std::vector<uint64_t> late = WaitMany(1, 8, 900);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{1, late, 8}));
  for (State& state : services_) {
    for (WaitingQuery& query : state.waiting) query.deadline_ns -= now_ns_;  // long past
  }
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{1, late, 8}));
}

TEST_F(ClockworkPolicyTest, AJobThatRanInPartIsJudgedByWhatIsLeftOfIt) {
  const std::vector<uint64_t> begun = WaitMany(0, 2, 700);
  RunInPart(0, 4);  // half of 1.2 ms is left
  WaitMany(0, 1, 2000);
  const std::vector<uint64_t> other = WaitMany(1, 1, 2000);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{0, begun, 2}));
  services_[0].unfinished.next_operator = 3;
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{1, other, 1})) << "0.75 ms are left of it, and 0.7 until it is due";
  services_[1].waiting.clear();
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{0, begun, 2})) << "its worker can do nothing else";
}

TEST_F(ClockworkPolicyTest, AProbeIsJudgedByWhenItIsDue) {
  const uint64_t probe = WaitRows(0, 10, now_ns_ + 500'000);
  services_[0].waiting[0].late_ns = kMs;
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{0, {probe}, 1}));
  const std::vector<uint64_t> before = WaitMany(1, 1, 1400);
  EXPECT_THAT(PickedNow(), ElementsAre(Picked{1, before, 1}));
}

TEST_F(ClockworkPolicyTest, WithoutWorkThatCanRunItWaits) {
  EXPECT_THAT(PickedNow(), IsEmpty());
  WaitMany(0, 1, 5000);
  services_[0].view.serving = false;
  EXPECT_THAT(PickedNow(), IsEmpty());
}

}  // namespace
}  // namespace abacus
