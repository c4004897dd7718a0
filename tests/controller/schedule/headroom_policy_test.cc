#include "controller/schedule/headroom_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

constexpr uint32_t kOperators = 64;
constexpr uint64_t kOperatorNs = 1000;  // alone

// Operators take the same time each, twice as long in bucket 1.
class EvenOperators : public LatencyModel {
 public:
  std::string_view name() const override { return "even operators"; }
  Prediction Predict(std::span<const OperatorRange> group) const override {
    uint64_t sum_ns = 0;
    for (const OperatorRange& range : group) sum_ns += (range.last - range.first) * kOperatorNs * (1 + range.bucket);
    return {sum_ns, true};
  }
};

// One query a job; which batches are chosen: headroom_batches_test.cc.
class HeadroomPolicyTest : public PolicyFixture {
 protected:
  HeadroomPolicyTest() : PolicyFixture(4, kOperators) {
    std::vector<uint32_t> cuts;
    for (uint32_t cut = 0; cut <= kOperators; ++cut) cuts.push_back(cut);
    for (uint32_t s = 0; s < 4; ++s) {
      AddBucket(s, kWholeNs, cuts);
      AddBucket(s, 2 * kWholeNs, cuts);
    }
  }
  Work Wait(uint32_t service, uint64_t deadline_ns, uint32_t next_operator = 0, uint32_t bucket = 0) {
    return PolicyFixture::Wait(service, 0, deadline_ns, bucket, next_operator);
  }
  // With one more query at each service that is in no hurry, so that nobody has too much to do (demand.h).
  Plan Next(Packing packing, double margin = 0) {
    for (uint32_t s = 0; s < 4; ++s) {
      if (services_[s].view.unfinished != nullptr || !services_[s].waiting.empty()) Wait(s, now_ns_ + 1000 * kWholeNs);
    }
    const std::vector<ServiceView> views = Views();
    return HeadroomPolicy(packing).Next({now_ns_, views, &model_, margin});
  }
  uint64_t TimeNs(const Plan& plan) const {
    std::vector<OperatorRange> group;
    for (const Assignment& assignment : plan.assignments) group.push_back(assignment.range());
    return model_.PredictNs(group);
  }
  static uint64_t WithMargin(uint64_t ns, double margin) {
    Snapshot snapshot;
    snapshot.margin = margin;
    return snapshot.WithMargin(ns);
  }
  // At most one for each worker, and each begins where its job stands.
  void ExpectRanges(const Plan& plan) {
    uint64_t services = 0;
    for (const Assignment& a : plan.assignments) {
      EXPECT_EQ(services >> a.service.value() & 1, 0u) << "two ranges for one worker";
      services |= uint64_t{1} << a.service.value();
      const Job* unfinished = services_[a.service.value()].view.unfinished;
      EXPECT_EQ(a.resumes, unfinished != nullptr);
      EXPECT_EQ(a.first, a.resumes ? unfinished->next_operator : 0);
      EXPECT_LT(a.first, a.last);
      EXPECT_LE(a.last, kOperators);
    }
  }
  auto Is(const Work& work, uint32_t first, uint32_t last) {
    return testing::AllOf(testing::ResultOf([this](const Assignment& a) { return WorkOf(a); }, work),
                          testing::Field(&Assignment::first, first), testing::Field(&Assignment::last, last));
  }

  static constexpr uint64_t kWholeNs = kOperators * kOperatorNs;
  const uint64_t now_ns_ = 1'000'000;
  EvenOperators alone_;
  PartialOverlap model_{&alone_};
};

using testing::ElementsAre;

TEST_F(HeadroomPolicyTest, NothingWaitingGivesAnEmptyPlan) {
  EXPECT_TRUE(Next(Packing::kBalanced).assignments.empty());
  EXPECT_TRUE(Next(Packing::kFurthest).assignments.empty());
}

TEST_F(HeadroomPolicyTest, TheMostUrgentRunsToItsEndAndOthersJoinInDeadlineOrder) {
  const Work third = Wait(0, now_ns_ + 30 * kWholeNs);
  const Work first = Wait(2, now_ns_ + 10 * kWholeNs, 16);
  const Work second = Wait(1, now_ns_ + 20 * kWholeNs);
  EXPECT_THAT(Next(Packing::kFurthest).assignments,
              ElementsAre(Is(first, 16, kOperators), Is(second, 0, kOperators), Is(third, 0, kOperators)));
}

TEST_F(HeadroomPolicyTest, TheLastJoinsUpToTheFurthestCutThatFits) {
  // Against trying every cut, for many headrooms and margins.
  std::mt19937 random(1);
  size_t cut_short = 0, alone = 0;
  for (int trial = 0; trial < 300; ++trial) {
    ClearWork();
    model_.cost = 0.1 + 0.8 * static_cast<double>(random() % 100) / 100;
    const double margin = 0.1 * static_cast<double>(random() % 3);
    const uint32_t begun = random() % (kOperators - 1);
    const uint64_t needs_ns = WithMargin((kOperators - begun) * kOperatorNs, margin);
    const Work urgent = Wait(0, now_ns_ + needs_ns + random() % kWholeNs, begun);
    const Work other = Wait(1, urgent.deadline_ns + 10 * kWholeNs, random() % (kOperators - 1));
    const Plan plan = Next(Packing::kFurthest, margin);
    uint32_t furthest = 0;
    for (uint32_t cut = other.next_operator + 1; cut <= kOperators; ++cut) {
      const std::array<OperatorRange, 2> group = {
          {{ServiceId(0), 0, urgent.next_operator, kOperators}, {ServiceId(1), 0, other.next_operator, cut}}};
      if (now_ns_ + WithMargin(model_.PredictNs(group), margin) <= urgent.deadline_ns) furthest = cut;
    }
    ASSERT_GE(plan.assignments.size(), 1u);
    EXPECT_THAT(plan.assignments[0], Is(urgent, urgent.next_operator, kOperators));
    if (furthest == 0) {
      EXPECT_EQ(plan.assignments.size(), 1u) << trial;
      ++alone;
    } else {
      ASSERT_EQ(plan.assignments.size(), 2u) << trial;
      EXPECT_THAT(plan.assignments[1], Is(other, other.next_operator, furthest)) << trial;
      cut_short += furthest < kOperators ? 1 : 0;
    }
  }
  EXPECT_GT(cut_short, 50u);
  EXPECT_GT(alone, 0u);
}

TEST_F(HeadroomPolicyTest, AJobThatWasCutEndsTheRound) {
  services_[1].buckets[0].cuts = {0, 32, kOperators};
  const Work first = Wait(0, now_ns_ + kWholeNs + 20 * kOperatorNs);
  const Work second = Wait(1, first.deadline_ns + 10 * kWholeNs);
  const Work third = Wait(2, first.deadline_ns + 20 * kWholeNs, kOperators - 4);
  model_.cost = 0.5;
  EXPECT_THAT(Next(Packing::kFurthest).assignments, ElementsAre(Is(first, 0, kOperators), Is(second, 0, 32)))
      << "though there is time for the third one";
  EXPECT_THAT(Next(Packing::kBalanced).assignments, testing::Contains(Is(third, kOperators - 4, kOperators)));
}

TEST_F(HeadroomPolicyTest, BalancedStopsOthersWhereTheGroupIsMostEfficient) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 300; ++trial) {
    ClearWork();
    model_.cost = 0.1 + 0.8 * static_cast<double>(random() % 100) / 100;
    const Work urgent = Wait(0, now_ns_ + 5 * kWholeNs, random() % (kOperators - 1));
    const Work other = Wait(1, urgent.deadline_ns + 1, random() % (kOperators - 1));
    const Plan plan = Next(Packing::kBalanced);
    ASSERT_EQ(plan.assignments.size(), 2u);
    EXPECT_THAT(plan.assignments[0], Is(urgent, urgent.next_operator, kOperators));
    const auto efficiency = [&](uint32_t cut) {
      const OperatorRange a = {ServiceId(0), 0, urgent.next_operator, kOperators};
      const OperatorRange b = {ServiceId(1), 0, other.next_operator, cut};
      const std::array<OperatorRange, 2> group = {a, b};
      return static_cast<double>(model_.PredictNs(a) + model_.PredictNs(b)) /
             static_cast<double>(model_.PredictNs(group));
    };
    double best = 0;
    for (uint32_t cut = other.next_operator + 1; cut <= kOperators; ++cut) best = std::max(best, efficiency(cut));
    EXPECT_GT(efficiency(plan.assignments[1].last), 0.97 * best) << trial;
  }
}

// A round of several ranges ends early enough for each that could make its deadline, with the margin: done by then,
// or with time for what is left. Who could not even wait for the most urgent one alone does not bound it.
TEST_F(HeadroomPolicyTest, BothPackingsKeepEveryDeadlineThatCanBeKept) {
  constexpr double kMargin = 0.1;
  std::mt19937 random(3);
  size_t kept_done = 0, kept_cut = 0, kept_waiting = 0;
  for (int trial = 0; trial < 500; ++trial) {
    ClearWork();
    std::vector<Work> works;
    std::vector<uint64_t> needs_ns;
    for (uint32_t s = 0; s < 4; ++s) {
      const uint32_t next_operator = random() % 2 == 0 ? 0 : random() % (kOperators - 1);
      const uint32_t bucket = random() % 2;
      works.push_back(Wait(s, now_ns_ + kWholeNs + random() % (6 * kWholeNs), next_operator, bucket));
      needs_ns.push_back((kOperators - next_operator) * kOperatorNs * (1 + bucket));
    }
    const auto urgent = std::ranges::min_element(works, {}, &Work::deadline_ns) - works.begin();
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      const Plan plan = Next(packing, kMargin);
      ExpectRanges(plan);
      if (plan.assignments.size() < 2) continue;
      const uint64_t end_ns = now_ns_ + WithMargin(TimeNs(plan), kMargin);
      for (uint32_t s = 0; s < 4; ++s) {
        uint64_t left_ns = needs_ns[s];
        const auto it = std::ranges::find(plan.assignments, ServiceId(s), &Assignment::service);
        const bool joined = it != plan.assignments.end();
        if (joined) left_ns -= alone_.PredictNs(it->range());
        const uint64_t due_ns = works[s].deadline_ns;
        const uint64_t from_now_ns = now_ns_ + WithMargin(joined && left_ns > 0 ? left_ns : needs_ns[s], kMargin);
        if (from_now_ns > due_ns) continue;  // it cannot
        const uint64_t until_ns = left_ns == 0 ? due_ns : due_ns - WithMargin(left_ns, kMargin);
        if (!joined && until_ns < now_ns_ + WithMargin(needs_ns[static_cast<size_t>(urgent)], kMargin)) continue;
        EXPECT_LE(end_ns, until_ns) << "service " << s << " in trial " << trial;
        ++(left_ns == 0 ? kept_done : joined ? kept_cut : kept_waiting);
      }
    }
  }
  EXPECT_GT(kept_done, 100u);
  EXPECT_GT(kept_cut, 100u);
  EXPECT_GT(kept_waiting, 100u);
}

TEST_F(HeadroomPolicyTest, AGroupThatGainsNothingIsNotFormed) {
  const Work first = Wait(0, now_ns_ + 10 * kWholeNs);
  Wait(1, now_ns_ + 11 * kWholeNs);
  for (const double cost : {1.0, 1.3}) {
    model_.cost = cost;
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      EXPECT_THAT(Next(packing).assignments, ElementsAre(Is(first, 0, kOperators))) << cost;
    }
  }
}

TEST_F(HeadroomPolicyTest, AJobThatRanInPartBlocksItsServiceAndInheritsItsUrgency) {
  const Work partial = Wait(0, now_ns_ + 50 * kWholeNs, 40);
  Wait(0, now_ns_ + 5 * kWholeNs);  // more urgent, but the worker is in the middle of `partial`
  const Work other = Wait(1, now_ns_ + 8 * kWholeNs);
  const Plan plan = Next(Packing::kFurthest);
  EXPECT_THAT(plan.assignments, ElementsAre(Is(partial, 40, kOperators), Is(other, 0, kOperators)));
}

TEST_F(HeadroomPolicyTest, WithinAServiceTheEarliestDeadlineGoesFirst) {
  Wait(0, now_ns_ + 9 * kWholeNs);
  const Work urgent = Wait(0, now_ns_ + 7 * kWholeNs);
  EXPECT_THAT(Next(Packing::kBalanced).assignments, ElementsAre(Is(urgent, 0, kOperators)));
}

TEST_F(HeadroomPolicyTest, TheHeadroomOfAHopelessJobIsThatOfTheNextOne) {
  model_.cost = 0.5;
  const Work hopeless = Wait(0, now_ns_ + kWholeNs / 2);
  const Work other = Wait(1, now_ns_ + 17 * kWholeNs / 10);
  const Work lax = Wait(2, now_ns_ + 50 * kWholeNs);
  EXPECT_THAT(Next(Packing::kFurthest).assignments,
              ElementsAre(Is(hopeless, 0, kOperators), Is(other, 0, kOperators), Is(lax, 0, 25)))
      << "two take 96 operators' time of the 108 that there are, and half of 25 go along";
}

TEST_F(HeadroomPolicyTest, ServicesThatAreDownOrBusyAreLeftOut) {
  Wait(0, now_ns_ + kWholeNs);
  const Job busy;
  Wait(1, now_ns_ + kWholeNs);
  const Work job = Wait(2, now_ns_ + 9 * kWholeNs);
  services_[0].view.serving = false;
  services_[1].view.running = &busy;
  EXPECT_THAT(Next(Packing::kBalanced).assignments, ElementsAre(Is(job, 0, kOperators)));
}

}  // namespace
}  // namespace abacus
