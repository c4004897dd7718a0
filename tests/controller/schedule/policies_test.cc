#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <string_view>
#include <tuple>
#include <vector>

#include "controller/schedule/policy.h"
#include "predictor/additive_model.h"
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

// Services that are unlike each other, in states of every kind.
class AnyStateTest : public BatchFixture {
 protected:
  AnyStateTest() : BatchFixture(5) {
    SetShape(0, {1, 2, 4, 8}, {}, kMs, kMs / 10);
    SetShape(1, {1, 4, 16}, {16, 64, 128}, kMs, kMs / 1000);
    services_[1].view.max_batch = 6;
    SetShape(2, {1, 2, 8}, {16, 32}, kMs / 2, kMs / 1000);
    services_[2].spec.sequence_padding = SequencePadding::kExact;
    SetShape(3, {1, 2, 4}, {}, kMs / 4, kMs);
    services_[3].spec.batchable = services_[3].view.batchable = false;
    services_[3].view.max_batch = 1;
    SetShape(4, {32, 128}, {}, kMs, kMs / 50);
  }
  uint32_t Random(uint32_t end) { return random_() % end; }

  void Randomise() {
    ClearWork();
    calm_ = Random(4) == 0;
    for (uint32_t s = 0; s < services_.size(); ++s) {
      State& state = services_[s];
      state.view.serving = Random(8) != 0;
      state.view.running = Random(6) == 0 ? &running_ : nullptr;
      if (Random(4) == 0) {
        Enqueue(s);
        RunInPart(s, 1 + Random(kOperators - 1));
      }
      for (uint32_t left = Random(3) == 0 ? 0 : Random(calm_ ? 3 : s == 4 ? 150 : 30); left > 0; --left) Enqueue(s);
    }
  }
  void Enqueue(uint32_t s) {
    const ModelSpec& spec = services_[s].spec;
    const auto largest = static_cast<uint32_t>(spec.batch_sizes.back());
    uint32_t rows = Random(3) == 0 ? 1 + Random(largest) : 1;
    uint32_t length = 0;
    if (!spec.batchable) rows = static_cast<uint32_t>(spec.batch_sizes[Random(3)]);
    if (spec.has_sequence()) {
      const auto longest = static_cast<uint32_t>(spec.sequence_lengths.back());
      length = spec.sequence_padding == SequencePadding::kExact ? 16 * (1 + Random(2)) : 1 + Random(longest);
    }
    WaitRows(s, now_ns_ - Random(calm_ ? 700'000 : 1'500'000), now_ns_ - kMs + Random(20'000'000), rows, length);
    WaitingQuery& query = services_[s].waiting.back();
    query.synthetic = Random(10) == 0;
    query.late_ns = Random(20) == 0 ? kMs : 0;
  }
  bool AnyCanRun() const {
    return std::ranges::any_of(services_, [](const State& state) {
      return state.view.serving && state.view.running == nullptr &&
             (state.view.unfinished != nullptr || !state.waiting.empty());
    });
  }

  void ExpectAllowed(const Assignment& assignment) const {
    const State& state = services_[assignment.service.value()];
    ASSERT_TRUE(state.view.serving && state.view.running == nullptr);
    ASSERT_EQ(assignment.resumes, state.view.unfinished != nullptr);
    EXPECT_EQ(assignment.last, kOperators);
    if (assignment.resumes) {
      EXPECT_TRUE(assignment.queries.empty());
      EXPECT_EQ(assignment.bucket, state.unfinished.bucket);
      EXPECT_EQ(assignment.first, state.unfinished.next_operator);
      return;
    }
    EXPECT_EQ(assignment.first, 0u);
    ASSERT_FALSE(assignment.queries.empty());
    ASSERT_LT(assignment.bucket, state.spec.bucket_count());
    const auto [batch, length] = state.spec.bucket(assignment.bucket);
    const bool exact = state.spec.sequence_padding == SequencePadding::kExact;
    int64_t rows = 0;
    for (size_t i = 0; i < assignment.queries.size(); ++i) {
      ASSERT_LT(assignment.queries[i], state.waiting.size());
      EXPECT_TRUE(i == 0 || assignment.queries[i - 1] < assignment.queries[i]) << "ascending, none twice";
      const WaitingQuery& query = state.waiting[assignment.queries[i]];
      EXPECT_EQ(query.synthetic, state.waiting[assignment.queries[0]].synthetic);
      EXPECT_TRUE(exact ? query.sequence == length : query.sequence <= length);
      rows += query.rows;
    }
    EXPECT_LE(rows, batch);
    EXPECT_TRUE(assignment.queries.size() == 1 || rows <= state.view.max_batch);
    EXPECT_TRUE(state.view.batchable || rows == batch) << "exactly the size of the bucket";
  }

  std::mt19937 random_{7};
  const uint64_t now_ns_ = 1000 * kMs;
  const Job running_;
  bool calm_ = false;  // few queries, none of which has waited for kDelayUs
};

auto Fields(const Plan& plan) {
  std::vector<std::tuple<uint32_t, bool, std::vector<uint32_t>, uint32_t, uint32_t, uint32_t>> fields;
  for (const Assignment& a : plan.assignments) {
    fields.emplace_back(a.service.value(), a.resumes, std::vector<uint32_t>(a.queries.begin(), a.queries.end()),
                        a.bucket, a.first, a.last);
  }
  return fields;
}

TEST_F(AnyStateTest, PlansAreAllowedTheSameForTheSameStateAndNeverEmptyWhileWorkCanRun) {
  size_t batches = 0, waited = 0;
  for (int i = 0; i < 500; ++i) {
    Randomise();
    for (const char* name : kBaselines) {
      for (const uint32_t delay_us : {0u, kDelayUs}) {
        SCOPED_TRACE(testing::Message() << name << ", delay " << delay_us << ", state " << i);
        const auto policy = PolicyNamed(name, delay_us);
        const Plan plan = Next(*policy, now_ns_, 0.05);
        std::vector<ServiceId> services;
        for (const Assignment& assignment : plan.assignments) {
          ExpectAllowed(assignment);
          EXPECT_THAT(services, testing::Not(testing::Contains(assignment.service)));
          services.push_back(assignment.service);
          if (assignment.queries.size() > 1) ++batches;
        }
        EXPECT_TRUE(!policy->in_rounds() || services.size() <= 1) << "one job at a time";
        const Plan again = Next(*PolicyNamed(name, delay_us), now_ns_, 0.05);
        EXPECT_EQ(Fields(plan), Fields(again));
        EXPECT_EQ(plan.wake_ns, again.wake_ns);

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
