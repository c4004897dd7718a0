#include "controller/schedule/arrival_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kNever = UINT64_MAX;

// Alone 1 row takes 1.1 ms, a batch of 2 takes 1.2, of 4 1.4, of 8 1.8.
class ArrivalPolicyTest : public BatchFixture {
 protected:
  ArrivalPolicyTest() : BatchFixture(3) {
    for (uint32_t s = 0; s < 3; ++s) SetShape(s, {1, 2, 4, 8}, {}, kMs, kMs / 10);
    services_[0].view.max_batch = 4;
  }
  const uint64_t far_ns_ = 100 * kMs;
};

TEST_F(ArrivalPolicyTest, FcfsTakesAlongWhoeverCameNextNotTheMostUrgent) {
  const uint64_t a = WaitRows(0, 10, 60 * kMs);
  const uint64_t b = WaitRows(0, 20, 50 * kMs);
  const uint64_t c = WaitRows(0, 30, 40 * kMs);
  const uint64_t d = WaitRows(0, 40, 30 * kMs);
  WaitRows(0, 50, 10 * kMs);
  WaitRows(1, 60, 20 * kMs);
  EXPECT_THAT(PickedBy(Next(*PolicyNamed("fcfs"), 100)), ElementsAre(Picked{0, {d, c, b, a}, 4}));
}

TEST_F(ArrivalPolicyTest, FcfsTakesTheServiceOfTheOldestQueryHoweverFullOthersAre) {
  for (int i = 0; i < 8; ++i) WaitRows(1, 20, 30 * kMs);
  const uint64_t oldest = WaitRows(2, 10, far_ns_);
  EXPECT_THAT(PickedBy(Next(*PolicyNamed("fcfs"), 100)), ElementsAre(Picked{2, {oldest}, 1}));
}

TEST_F(ArrivalPolicyTest, FreeStartsABatchOfEveryIdleService) {
  const uint64_t a = WaitRows(0, 10, far_ns_);
  const uint64_t b = WaitRows(0, 20, far_ns_);
  const uint64_t c = WaitRows(1, 30, far_ns_);
  WaitRows(2, 5, far_ns_);
  const Job running;
  services_[2].view.running = &running;
  const auto policy = PolicyNamed("free");
  EXPECT_FALSE(policy->in_rounds());
  EXPECT_THAT(PickedBy(Next(*policy, 100)), ElementsAre(Picked{0, {a, b}, 2}, Picked{1, {c}, 1}));
}

TEST_F(ArrivalPolicyTest, DelayWaitsUntilTheBatchIsFullOrItsOldestQueryHasWaitedLongEnough) {
  const uint64_t a = WaitRows(0, 1 * kMs, far_ns_);
  const uint64_t b = WaitRows(0, 2 * kMs, far_ns_);
  for (const char* name : {"delay", "delay-free"}) {
    const auto policy = PolicyNamed(name, 2000);
    EXPECT_EQ(policy->in_rounds(), std::string(name) == "delay");
    const Plan early = Next(*policy, 3 * kMs - 1);
    EXPECT_THAT(early.assignments, IsEmpty()) << name;
    EXPECT_EQ(early.wake_ns, 3 * kMs) << name;
    const Plan late = Next(*policy, 3 * kMs);
    EXPECT_THAT(PickedBy(late), ElementsAre(Picked{0, {a, b}, 2})) << name;
    EXPECT_EQ(late.wake_ns, kNever) << name;
  }
  const uint64_t c = WaitRows(0, 2 * kMs, far_ns_);
  const uint64_t d = WaitRows(0, 2 * kMs, far_ns_);
  for (const char* name : {"delay", "delay-free"}) {
    EXPECT_THAT(PickedBy(Next(*PolicyNamed(name, 2000), 2 * kMs)), ElementsAre(Picked{0, {a, b, c, d}, 4})) << name;
  }
}

TEST_F(ArrivalPolicyTest, FullIsARowCountAndWhatDoesNotFitWaits) {
  const uint64_t a = WaitRows(0, 10, far_ns_, 3);
  const auto policy = PolicyNamed("delay", 2000);
  EXPECT_THAT(Next(*policy, 100).assignments, IsEmpty());
  WaitRows(0, 20, far_ns_, 2);
  EXPECT_THAT(PickedBy(Next(*policy, 100)), ElementsAre(Picked{0, {a}, 4})) << "3 + 2 rows are more than 4";
}

TEST_F(ArrivalPolicyTest, DelayRunsOfTheReadyBatchesTheOneWhoseOldestQueryIsOldest) {
  const uint64_t older = WaitRows(1, 1 * kMs, far_ns_);
  std::vector<uint64_t> full;
  for (int i = 0; i < 4; ++i) full.push_back(WaitRows(0, 2 * kMs, far_ns_));
  const auto policy = PolicyNamed("delay", 5000);
  const Plan plan = Next(*policy, 3 * kMs);
  EXPECT_THAT(PickedBy(plan), ElementsAre(Picked{0, full, 4})) << "the older one is not ready";
  EXPECT_EQ(plan.wake_ns, kNever) << "it is not asked again before the round ends";
  EXPECT_THAT(PickedBy(Next(*policy, 6 * kMs)), ElementsAre(Picked{1, {older}, 1}));
}

TEST_F(ArrivalPolicyTest, DelayFreeStartsWhatIsReadyAndWakesForTheNext) {
  std::vector<uint64_t> full;
  for (int i = 0; i < 4; ++i) full.push_back(WaitRows(0, 2 * kMs, far_ns_));
  WaitRows(1, 2 * kMs + 7, far_ns_);
  WaitRows(2, 2 * kMs + 3, far_ns_);
  const auto policy = PolicyNamed("delay-free", 5000);
  const Plan plan = Next(*policy, 3 * kMs);
  EXPECT_THAT(PickedBy(plan), ElementsAre(Picked{0, full, 4}));
  EXPECT_EQ(plan.wake_ns, 7 * kMs + 3);
  const Job running;
  services_[2].view.running = &running;
  EXPECT_EQ(Next(*policy, 3 * kMs).wake_ns, 7 * kMs + 7) << "a busy worker is heard when it is done";
}

TEST_F(ArrivalPolicyTest, WithoutADelayTheRuleIsFcfsOrFree) {
  WaitRows(0, 30, far_ns_);
  WaitRows(1, 20, far_ns_);
  WaitRows(1, 25, far_ns_);
  EXPECT_EQ(PickedBy(Next(*PolicyNamed("delay"), 100)), PickedBy(Next(*PolicyNamed("fcfs"), 100)));
  EXPECT_EQ(PickedBy(Next(*PolicyNamed("delay-free"), 100)), PickedBy(Next(*PolicyNamed("free"), 100)));
  EXPECT_EQ(Next(*PolicyNamed("delay-free"), 100).assignments.size(), 2u);
}

TEST_F(ArrivalPolicyTest, WhereAJobHoldsOneQueryThereIsNothingToWaitFor) {
  const uint64_t a = WaitRows(0, 10, far_ns_);
  WaitRows(0, 20, far_ns_);
  const auto policy = PolicyNamed("delay", 5000);
  EXPECT_THAT(Next(*policy, 100).assignments, IsEmpty());
  services_[0].view.max_batch = 1;
  EXPECT_THAT(PickedBy(Next(*policy, 100)), ElementsAre(Picked{0, {a}, 1}));
  services_[0].view.max_batch = 4;
  services_[0].view.batchable = false;
  EXPECT_THAT(PickedBy(Next(*policy, 100)), ElementsAre(Picked{0, {a}, 1}));
}

TEST_F(ArrivalPolicyTest, AJobThatRanInPartWaitsForNobody) {
  const uint64_t a = WaitRows(0, 10, far_ns_);
  const uint64_t b = WaitRows(0, 20, far_ns_);
  RunInPart(0, 3);
  WaitRows(0, 30, far_ns_);
  for (const char* name : {"fcfs", "free", "delay", "delay-free"}) {
    EXPECT_THAT(PickedBy(Next(*PolicyNamed(name, 5000), 100)), ElementsAre(Picked{0, {a, b}, 2})) << name;
  }
}

}  // namespace
}  // namespace abacus
