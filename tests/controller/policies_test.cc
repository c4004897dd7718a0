#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "controller/policy.h"

namespace abacus {
namespace {

// A snapshot built by hand: services with waiting jobs, at a time of the test's choosing.
class PoliciesTest : public testing::Test {
 protected:
  PoliciesTest() : views_(3), waiting_(3) {
    for (ServiceView& view : views_) view.serving = true;
  }
  Job* Wait(uint32_t service, uint64_t arrival_ns, uint64_t solo_ns, uint64_t deadline_ns) {
    Job& job = jobs_.emplace_back();
    job.id = jobs_.size();
    job.service = service;
    job.arrival_ns = arrival_ns;
    job.solo_ns = solo_ns;
    job.deadline_ns = deadline_ns;
    job.operators = 10;
    waiting_[service].push_back(&job);
    return &job;
  }
  std::vector<Job*> Next(const std::string& policy) {
    for (size_t i = 0; i < views_.size(); ++i) views_[i].waiting = waiting_[i];
    const Plan plan = MakePolicy(policy).value()->Next({1000, views_, nullptr});
    std::vector<Job*> picked;
    for (const Assignment& assignment : plan.assignments) {
      EXPECT_EQ(assignment.first, assignment.job->next_operator);
      EXPECT_EQ(assignment.last, assignment.job->operators);
      picked.push_back(assignment.job);
    }
    return picked;
  }

  std::deque<Job> jobs_;
  std::vector<ServiceView> views_;
  std::vector<std::vector<Job*>> waiting_;
};

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(PoliciesTest, EachBaselinePicksByItsOwnKey) {
  Wait(0, 30, 300, 3000);
  Job* oldest = Wait(1, 10, 200, 2000);
  Job* shortest = Wait(1, 20, 100, 2500);
  Job* urgent = Wait(2, 40, 400, 1000);
  EXPECT_THAT(Next("fcfs"), ElementsAre(oldest));
  EXPECT_THAT(Next("sjf"), ElementsAre(shortest));
  EXPECT_THAT(Next("edf"), ElementsAre(urgent));
}

TEST_F(PoliciesTest, TiesGoToTheOlderJob) {
  Job* first = Wait(2, 10, 100, 1000);
  Wait(0, 10, 100, 1000);
  for (const char* policy : {"fcfs", "sjf", "edf"}) EXPECT_THAT(Next(policy), ElementsAre(first)) << policy;
}

TEST_F(PoliciesTest, SjfCountsOnlyWhatIsLeft) {
  Job* nearly_done = Wait(0, 10, 1000, 9000);
  nearly_done->next_operator = 9;
  Wait(1, 5, 200, 9000);
  EXPECT_THAT(Next("sjf"), ElementsAre(nearly_done));
}

TEST_F(PoliciesTest, FreeKeepsEveryIdleWorkerBusy) {
  Job* running = Wait(0, 1, 1, 1);
  waiting_[0].clear();
  views_[0].running = running;
  Wait(0, 5, 1, 1);
  Job* a = Wait(1, 20, 1, 1);
  Wait(1, 30, 1, 1);
  Job* b = Wait(2, 10, 1, 1);
  EXPECT_THAT(Next("free"), ElementsAre(a, b));
}

TEST_F(PoliciesTest, NobodyPicksAServiceThatIsDown) {
  views_[1].serving = false;
  Wait(1, 1, 1, 1);
  for (const char* policy : {"fcfs", "sjf", "edf", "free"}) EXPECT_THAT(Next(policy), IsEmpty()) << policy;
  Job* other = Wait(2, 9, 9, 9);
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
