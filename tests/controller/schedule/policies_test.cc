#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/schedule/policy.h"
#include "predictor/additive_model.h"
#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

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
    const Plan plan = MakePolicy(policy).value()->Next({1000, views, &latency_});
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
  for (const char* policy : {"fcfs", "sjf", "edf"}) EXPECT_THAT(Next(policy), ElementsAre(first)) << policy;
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
  for (const char* policy : {"fcfs", "sjf", "edf", "free"})
    EXPECT_THAT(Next(policy), ElementsAre(unfinished)) << policy;
}

TEST_F(PoliciesTest, FreeKeepsEveryIdleWorkerBusy) {
  const Job running;
  services_[0].view.running = &running;
  Wait(0, 5, 1, 1);
  const Work a = Wait(1, 20, 1, 1);
  Wait(1, 30, 1, 1);
  const Work b = Wait(2, 10, 1, 1);
  EXPECT_THAT(Next("free"), ElementsAre(a, b));
}

TEST_F(PoliciesTest, NobodyPicksAServiceThatIsDown) {
  services_[1].view.serving = false;
  Wait(1, 1, 1, 1);
  for (const char* policy : {"fcfs", "sjf", "edf", "free"}) EXPECT_THAT(Next(policy), IsEmpty()) << policy;
  const Work other = Wait(2, 9, 9, 9);
  for (const char* policy : {"fcfs", "sjf", "edf", "free"}) EXPECT_THAT(Next(policy), ElementsAre(other)) << policy;
}

TEST_F(PoliciesTest, NothingWaitingGivesAnEmptyPlan) {
  for (const char* policy : {"fcfs", "sjf", "edf", "free"}) EXPECT_THAT(Next(policy), IsEmpty()) << policy;
}

TEST(MakePolicy, NamesTheKnownOnesForAnUnknownName) {
  const auto policy = MakePolicy("fifo");
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(policy.error().message().find("fcfs, sjf, edf, free"), std::string::npos);
}

}  // namespace
}  // namespace abacus
