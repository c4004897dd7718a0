#include "controller/schedule/headroom_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

constexpr uint32_t kOperators = 64;
constexpr uint64_t kOperatorNs = 1000;  // alone

// A group takes its longest range and `overlap_cost` of the others: 0 = overlap is free, 1 = it gains nothing.
class ScriptedModel : public LatencyModel {
 public:
  std::string_view name() const override { return "scripted"; }
  Prediction Predict(std::span<const OperatorRange> group) const override {
    uint64_t sum_ns = 0, longest_ns = 0;
    for (const OperatorRange& range : group) {
      const uint64_t solo_ns = (range.last - range.first) * kOperatorNs * (1 + range.bucket);
      sum_ns += solo_ns;
      longest_ns = std::max(longest_ns, solo_ns);
    }
    return {longest_ns + static_cast<uint64_t>(overlap_cost * static_cast<double>(sum_ns - longest_ns)), true};
  }
  double overlap_cost = 0.3;
};

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
  Plan Next(Packing packing, double margin = 0) {
    const std::vector<ServiceView> views = Views();
    return HeadroomPolicy(packing).Next({now_ns_, views, &model_, margin});
  }
  static uint64_t TimeNs(const ScriptedModel& model, const Plan& plan) {
    std::vector<OperatorRange> group;
    for (const Assignment& assignment : plan.assignments) group.push_back(assignment.range());
    return model.PredictNs(group);
  }
  // As if the range had run.
  void Advance(const Assignment& assignment) {
    State& state = services_[assignment.service.value()];
    if (!assignment.resumes) {
      state.unfinished = Job{};
      state.unfinished.operators = kOperators;
      state.unfinished.queries.push_back(state.waiting[assignment.queries[0]]);
      state.waiting.erase(state.waiting.begin() + assignment.queries[0]);
    }
    state.unfinished.next_operator = assignment.last;
    state.view.unfinished = assignment.last < kOperators ? &state.unfinished : nullptr;
  }
  auto Is(const Work& work, uint32_t first, uint32_t last) {
    return testing::AllOf(testing::ResultOf([this](const Assignment& a) { return WorkOf(a); }, work),
                          testing::Field(&Assignment::first, first), testing::Field(&Assignment::last, last));
  }

  static constexpr uint64_t kWholeNs = kOperators * kOperatorNs;
  const uint64_t now_ns_ = 1'000'000;
  ScriptedModel model_;
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
  for (int trial = 0; trial < 300; ++trial) {
    ClearWork();
    model_.overlap_cost = 0.1 + 0.8 * static_cast<double>(random() % 100) / 100;
    const double margin = 0.1 * static_cast<double>(random() % 3);
    const Work urgent = Wait(0, now_ns_ + kWholeNs + random() % (2 * kWholeNs), random() % (kOperators - 1));
    const Work other = Wait(1, urgent.deadline_ns + 1, random() % (kOperators - 1));
    const Plan plan = Next(Packing::kFurthest, margin);
    Snapshot snapshot;
    snapshot.margin = margin;
    uint32_t furthest = 0;
    for (uint32_t cut = other.next_operator + 1; cut <= kOperators; ++cut) {
      const std::array<OperatorRange, 2> group = {
          {{ServiceId(0), 0, urgent.next_operator, kOperators}, {ServiceId(1), 0, other.next_operator, cut}}};
      const uint64_t time_ns = snapshot.WithMargin(model_.PredictNs(group));
      if (time_ns <= urgent.deadline_ns - now_ns_) furthest = cut;
    }
    ASSERT_GE(plan.assignments.size(), 1u);
    EXPECT_THAT(plan.assignments[0], Is(urgent, urgent.next_operator, kOperators));
    if (furthest == 0) {
      EXPECT_EQ(plan.assignments.size(), 1u) << trial;
    } else {
      ASSERT_EQ(plan.assignments.size(), 2u) << trial;
      EXPECT_THAT(plan.assignments[1], Is(other, other.next_operator, furthest)) << trial;
    }
  }
}

TEST_F(HeadroomPolicyTest, AJobThatWasCutEndsTheRound) {
  const Work first = Wait(0, now_ns_ + kWholeNs + kWholeNs / 8);
  const Work second = Wait(1, first.deadline_ns + 1);
  Wait(2, first.deadline_ns + 2);
  model_.overlap_cost = 0.5;
  const Plan plan = Next(Packing::kFurthest);
  ASSERT_EQ(plan.assignments.size(), 2u);
  EXPECT_EQ(WorkOf(plan.assignments[1]), second);
  EXPECT_LT(plan.assignments[1].last, kOperators);
}

TEST_F(HeadroomPolicyTest, BalancedStopsOthersWhereTheGroupIsMostEfficient) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 300; ++trial) {
    ClearWork();
    model_.overlap_cost = 0.1 + 0.8 * static_cast<double>(random() % 100) / 100;
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

TEST_F(HeadroomPolicyTest, BothPackingsKeepToTheHeadroomWithMargin) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 500; ++trial) {
    ClearWork();
    uint64_t urgent_ns = std::numeric_limits<uint64_t>::max();
    for (uint32_t s = 0; s < 4; ++s) {
      const uint64_t deadline_ns = now_ns_ + 2 * kWholeNs + random() % (4 * kWholeNs);
      const uint32_t next_operator = random() % 2 == 0 ? 0 : random() % (kOperators - 1);
      Wait(s, deadline_ns, next_operator, random() % 2);
      urgent_ns = std::min(urgent_ns, deadline_ns);
    }
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      const Plan plan = Next(packing, 0.1);
      if (plan.assignments.size() > 1) {
        EXPECT_LE(static_cast<double>(TimeNs(model_, plan)) * 1.1, static_cast<double>(urgent_ns - now_ns_) + 1);
      }
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
  }
}

TEST_F(HeadroomPolicyTest, AGroupThatGainsNothingIsNotFormed) {
  const Work first = Wait(0, now_ns_ + 10 * kWholeNs);
  Wait(1, now_ns_ + 11 * kWholeNs);
  for (const double cost : {1.0, 1.3}) {
    model_.overlap_cost = cost;
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
  const Work hopeless = Wait(0, now_ns_ + kWholeNs / 2);
  const Work other = Wait(1, now_ns_ + 3 * kWholeNs);
  EXPECT_THAT(Next(Packing::kFurthest).assignments, ElementsAre(Is(hopeless, 0, kOperators), Is(other, 0, kOperators)));
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

// The bound of headroom_policy.h: once no later arrival can have an earlier deadline, only the jobs that are ahead then
// run before. Service 0 has a lax target; the others flood the GPU with more than it can do, at a tight one.
TEST_F(HeadroomPolicyTest, NoJobStarves) {
  constexpr uint64_t kLaxNs = 40 * kWholeNs, kTightNs = 5 * kWholeNs;
  for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
    ClearWork();
    const uint64_t begin_ns = now_ns_;
    uint64_t time_ns = begin_ns;
    const Work lax = Wait(0, begin_ns + kLaxNs);
    uint64_t ahead_ns = 0;  // work with earlier deadlines when nobody can overtake any more
    bool fixed = false, done = false;
    while (!done) {
      for (uint32_t s = 1; s < 4; ++s) {  // the flood: every round one more of each
        Wait(s, time_ns + kTightNs);
      }
      if (!fixed && time_ns + kTightNs >= lax.deadline_ns) {
        fixed = true;
        for (uint32_t s = 1; s < 4; ++s) {
          for (const WaitingQuery& query : services_[s].waiting) {
            if (query.deadline_ns < lax.deadline_ns) ahead_ns += kWholeNs;
          }
          const Job* unfinished = services_[s].view.unfinished;
          if (unfinished != nullptr && unfinished->due_ns() < lax.deadline_ns) ahead_ns += kWholeNs;
        }
        ahead_ns += time_ns + kWholeNs * 4;  // and the round that runs
      }
      const std::vector<ServiceView> views = Views();
      const Plan plan = HeadroomPolicy(packing).Next({time_ns, views, &model_, 0.0});
      ASSERT_FALSE(plan.assignments.empty());
      time_ns += TimeNs(model_, plan);
      for (const Assignment& a : plan.assignments) {
        done |= a.last == kOperators && WorkOf(a) == lax;
        Advance(a);
      }
      ASSERT_TRUE(!fixed || time_ns <= ahead_ns) << "still waiting past the bound";
    }
    EXPECT_TRUE(fixed || time_ns < lax.deadline_ns);
  }
}

}  // namespace
}  // namespace abacus
