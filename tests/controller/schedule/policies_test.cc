#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "controller/schedule/policy.h"
#include "predictor/additive_model.h"
#include "tests/controller/schedule/any_state_fixture.h"
#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

// All but "abacus"; without a delay.
constexpr std::array kBaselines = {"fcfs", "sjf", "edf", "free", "delay", "delay-free", "clockwork"};

// One query a job.
class PoliciesTest : public PolicyFixture {
 protected:
  PoliciesTest() : PolicyFixture(3, 10) {}
  // Each query has a bucket of its own, and with it a length of its own.
  Work Wait(uint32_t service, uint64_t arrival_ns, uint64_t solo_ns, uint64_t deadline_ns, uint32_t next_operator = 0) {
    const std::vector<uint32_t> cuts = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    AddBucket(service, solo_ns, cuts);
    const auto bucket = static_cast<uint32_t>(services_[service].buckets.size() - 1);
    latency_.SetBucket(ServiceId(service), bucket, cuts, solo_ns);
    return PolicyFixture::Wait(service, arrival_ns, deadline_ns, bucket, next_operator);
  }
  std::vector<Work> Next(const std::string& policy) {
    const std::vector<ServiceView> views = Views();
    const Plan plan = PolicyNamed(policy)->Next({1000, views, &latency_});
    std::vector<Work> picked;
    for (const Assignment& assignment : plan.assignments) {
      picked.push_back(WorkOf(assignment));
      EXPECT_EQ(assignment.first, picked.back().next_operator);
      EXPECT_EQ(assignment.last, operators_);
    }
    return picked;
  }
  AdditiveModel latency_;
};

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(PoliciesTest, EachBaselinePicksByItsOwnKey) {
  Wait(0, 30, 300, 3000);
  const Work oldest = Wait(1, 10, 200, 2000);
  const Work shortest = Wait(1, 20, 100, 2500);
  const Work urgent = Wait(2, 40, 400, 1000);
  EXPECT_THAT(Next("fcfs"), ElementsAre(oldest));
  EXPECT_THAT(Next("sjf"), ElementsAre(shortest));
  EXPECT_THAT(Next("edf"), ElementsAre(urgent));
}

TEST_F(PoliciesTest, TiesGoToTheOlderJob) {
  const Work first = Wait(2, 10, 100, 1000);
  Wait(0, 10, 100, 1000);
  for (const char* policy : {"fcfs", "sjf", "edf", "delay", "clockwork"}) {
    EXPECT_THAT(Next(policy), ElementsAre(first)) << policy;
  }
}

TEST_F(PoliciesTest, SjfCountsOnlyWhatIsLeft) {
  const Work nearly_done = Wait(0, 10, 1000, 9000, 9);
  Wait(1, 5, 200, 9000);
  EXPECT_THAT(Next("sjf"), ElementsAre(nearly_done));
}

TEST_F(PoliciesTest, SjfGoesByWhatRoundsHaveTaught) {
  const Work measured_long = Wait(0, 10, 1000, 9000);
  Wait(1, 5, 200, 9000);
  SoloCorrection solo;
  latency_.SetCorrection(&solo);
  solo.Set(ServiceId(0), 0, 0.1);
  EXPECT_THAT(Next("sjf"), ElementsAre(measured_long));
}

TEST_F(PoliciesTest, AProbeComesAfterWhatIsDueBeforeIt) {
  Wait(0, 10, 100, 1000);
  services_[0].waiting[0].late_ns = 500;
  const Work other = Wait(1, 20, 100, 1400);
  EXPECT_THAT(Next("edf"), ElementsAre(other));
  services_[1].waiting[0].deadline_ns = 1600;
  EXPECT_EQ(Next("edf")[0].service, 0u);
}

TEST_F(PoliciesTest, WhatRanInPartGoesOnBeforeOthersOfItsService) {
  const Work unfinished = Wait(1, 50, 1000, 9000, 9);
  Wait(1, 5, 1, 100);
  for (const char* policy : kBaselines) EXPECT_THAT(Next(policy), ElementsAre(unfinished)) << policy;
}

TEST_F(PoliciesTest, FreeKeepsEveryIdleWorkerBusy) {
  const Job running;
  services_[0].view.running = &running;
  Wait(0, 5, 1, 1);
  const Work a = Wait(1, 20, 1, 1);
  Wait(1, 30, 1, 1);
  const Work b = Wait(2, 10, 1, 1);
  for (const char* policy : {"free", "delay-free"}) EXPECT_THAT(Next(policy), ElementsAre(a, b)) << policy;
}

TEST_F(PoliciesTest, NobodyPicksAServiceThatIsDown) {
  services_[1].view.serving = false;
  Wait(1, 1, 1, 1);
  for (const char* policy : kBaselines) EXPECT_THAT(Next(policy), IsEmpty()) << policy;
  const Work other = Wait(2, 9, 9, 9);
  for (const char* policy : kBaselines) EXPECT_THAT(Next(policy), ElementsAre(other)) << policy;
}

TEST_F(PoliciesTest, NothingWaitingGivesAnEmptyPlan) {
  for (const char* policy : kBaselines) EXPECT_THAT(Next(policy), IsEmpty()) << policy;
}

TEST(MakePolicy, NamesTheKnownOnesForAnUnknownName) {
  SchedulerConfig config;
  config.policy = "fifo";
  const auto policy = MakePolicy(config);
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code(), StatusCode::kInvalidArgument);
  for (const std::string_view name : kPolicyNames) {
    EXPECT_THAT(policy.error().message(), testing::HasSubstr(std::string(name)));
  }
}

TEST(MakePolicy, EachGoesByItsName) {
  for (const std::string_view name : kPolicyNames) EXPECT_EQ(PolicyNamed(std::string(name))->name(), name);
}

// --- Any state -----------------------------------------------------------------------------------------------------

constexpr uint32_t kDelayUs = 800;

class AnyStateTest : public AnyStateFixture {};

TEST_F(AnyStateTest, PlansAreAllowedTheSameForTheSameStateAndNeverEmptyWhileWorkCanRun) {
  size_t batches = 0, waited = 0;
  for (int i = 0; i < 500; ++i) {
    Randomise();
    for (const char* name : kBaselines) {
      for (const uint32_t delay_us : {0u, kDelayUs}) {
        SCOPED_TRACE(testing::Message() << name << ", delay " << delay_us << ", state " << i);
        const auto policy = PolicyNamed(name, delay_us);
        const Plan plan = Next(*policy, now_ns_, 0.05);
        ExpectAllowed(plan);
        for (const Assignment& assignment : plan.assignments) {
          EXPECT_EQ(assignment.last, kOperators) << "whole passes";
          if (assignment.queries.size() > 1) ++batches;
        }
        EXPECT_TRUE(!policy->in_rounds() || plan.assignments.size() <= 1) << "one job at a time";
        const Plan again = Next(*PolicyNamed(name, delay_us), now_ns_, 0.05);
        EXPECT_EQ(Fields(plan), Fields(again));

        const bool may_wait = std::string_view(name).starts_with("delay") && delay_us > 0;
        if (may_wait && AnyCanRun() && plan.assignments.empty()) {
          ++waited;
          EXPECT_GT(plan.wake_ns, now_ns_);
          EXPECT_LE(plan.wake_ns, now_ns_ + delay_us * 1000) << "it waits no longer than the delay";
          EXPECT_THAT(Next(*policy, plan.wake_ns, 0.05).assignments, testing::Not(IsEmpty()));
        } else if (!may_wait) {
          EXPECT_EQ(plan.assignments.empty(), !AnyCanRun());
          EXPECT_EQ(plan.wake_ns, UINT64_MAX);
        }
      }
    }
  }
  EXPECT_GT(batches, 1000u);
  EXPECT_GT(waited, 10u);
}

// Every query gets its turn under those that do not look at deadlines or lengths, in the order of arrival.
TEST_F(AnyStateTest, NobodyOvertakesTheOldestByArrival) {
  for (int i = 0; i < 200; ++i) {
    Randomise();
    for (const char* name : {"fcfs", "free"}) {
      const Plan plan = Next(*PolicyNamed(name), now_ns_);
      for (const Assignment& assignment : plan.assignments) {
        if (assignment.resumes) continue;
        const State& state = services_[assignment.service.value()];
        const auto oldest = std::ranges::min_element(state.waiting, {}, &WaitingQuery::order);
        EXPECT_THAT(assignment.queries, testing::Contains(oldest - state.waiting.begin())) << name;
      }
    }
  }
}

}  // namespace
}  // namespace abacus
