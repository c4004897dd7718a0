// What holds of every plan of the policy "abacus".
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "controller/schedule/batching.h"
#include "controller/schedule/headroom_policy.h"
#include "tests/controller/schedule/any_state_fixture.h"

namespace abacus {
namespace {

class HeadroomAnyStateTest : public AnyStateFixture {
 protected:
  static constexpr double kMargin = 0.05;

  void RandomiseAll() {
    Randomise();
    model_.cost = 0.2 + 0.01 * Random(90);
    const uint64_t later_ns = Random(3) * 2 * kMs;  // where few are hopeless, more can be chosen among
    for (State& state : services_) {
      state.view.qos_ns = Random(3) == 0 ? 0 : kMs * (1 + Random(40));
      for (WaitingQuery& query : state.waiting) query.deadline_ns += later_ns;
    }
  }
  Plan NextOf(Packing packing) {
    views_ = Views();
    return HeadroomPolicy(packing).Next({now_ns_, views_, &model_, kMargin});
  }
  uint64_t WithMargin(uint64_t ns) const { return Snapshot{now_ns_, {}, nullptr, kMargin}.WithMargin(ns); }
  // By due time and order.
  static std::pair<uint64_t, uint64_t> Urgency(const State& state) {
    std::pair urgency(UINT64_MAX, UINT64_MAX);
    if (!state.waiting.empty()) urgency = {state.waiting[0].due_ns(), state.waiting[0].order};
    if (state.view.unfinished != nullptr) {
      urgency = {std::min(urgency.first, state.unfinished.due_ns()), state.unfinished.order()};
    }
    return urgency;
  }
  const State& MostUrgent() const {
    const State* most = nullptr;
    for (const State& state : services_) {
      if (CanRun(state) && (most == nullptr || Urgency(state) < Urgency(*most))) most = &state;
    }
    return *most;
  }
  // What all that waits takes at the most efficient batches, over the time that there is for it.
  bool MayHaveTooMuch(const State& state) const {
    double work_ns = 0;
    for (size_t s = 0; s < services_.size(); ++s) {
      if (CanRun(services_[s])) work_ns += WorthOf(views_[s], model_, services_[s].waiting);
      if (CanRun(services_[s]) && services_[s].view.unfinished != nullptr) {
        work_ns += WorthOf(views_[s], model_, services_[s].unfinished);
      }
    }
    const uint64_t last_ns = std::max(now_ns_, state.waiting.back().due_ns());
    return work_ns > 0.4 * static_cast<double>(last_ns - now_ns_);
  }

  PartialOverlap model_{&latency_};
  std::vector<ServiceView> views_;
};

TEST_F(HeadroomAnyStateTest, PlansAreAllowedTheSameForTheSameStateAndNeverEmptyWhileWorkCanRun) {
  size_t batches = 0, groups = 0, cut = 0, resumed_beside_new = 0;
  for (int i = 0; i < 3000; ++i) {
    RandomiseAll();
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      SCOPED_TRACE(testing::Message() << kPackingNames[static_cast<size_t>(packing)] << ", state " << i);
      const Plan plan = NextOf(packing);
      ExpectAllowed(plan);
      EXPECT_EQ(plan.assignments.empty(), !AnyCanRun());
      EXPECT_EQ(plan.wake_ns, UINT64_MAX);
      EXPECT_EQ(Fields(plan), Fields(NextOf(packing)));
      groups += plan.assignments.size() > 1 ? 1 : 0;
      for (const Assignment& a : plan.assignments) {
        batches += a.queries.size() > 1 ? 1 : 0;
        cut += a.last < kOperators ? 1 : 0;
        resumed_beside_new += a.resumes && plan.assignments.size() > 1 ? 1 : 0;
      }
    }
  }
  EXPECT_GT(batches, 500u);
  EXPECT_GT(groups, 500u);
  EXPECT_GT(cut, 500u);
  EXPECT_GT(resumed_beside_new, 500u);
}

TEST_F(HeadroomAnyStateTest, TheMostUrgentServiceRunsAndBeginsWithItsMostUrgentQueryUnlessItHasTooMuchToDo) {
  size_t went_on = 0, began = 0, shed = 0, passed_by = 0;
  for (int i = 0; i < 3000; ++i) {
    RandomiseAll();
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      SCOPED_TRACE(testing::Message() << kPackingNames[static_cast<size_t>(packing)] << ", state " << i);
      const Plan plan = NextOf(packing);
      if (plan.assignments.empty()) continue;
      const Assignment& first = plan.assignments[0];
      const State& state = MostUrgent();
      if (first.service != state.view.id) {  // less urgent: it passes over its most urgent queries
        ++passed_by;
        EXPECT_TRUE(MayHaveTooMuch(state));
        EXPECT_FALSE(state.waiting.empty());
        continue;
      }
      if (first.resumes) {
        ++went_on;
        EXPECT_EQ(plan.urgent_order, Urgency(state).second);
        continue;
      }
      ASSERT_FALSE(first.queries.empty());
      const uint32_t lead = first.queries[0];
      EXPECT_EQ(plan.urgent_order, state.waiting[lead].order);
      if (lead == 0) {
        ++began;
        continue;
      }
      ++shed;
      EXPECT_TRUE(MayHaveTooMuch(state));
      const ServiceView& view = views_[state.view.id.value()];
      const Batch best = GreedyBatch(view, model_, 0);
      const uint64_t best_ns = model_.PredictNs({view.id, best.bucket, 0, kOperators});
      EXPECT_LT(state.waiting[lead - 1].due_ns(), now_ns_ + WithMargin(best_ns)) << "nobody is passed over in vain";
      EXPECT_GE(state.waiting[lead].due_ns(), now_ns_ + WithMargin(best_ns));
      const uint64_t alone_ns = model_.PredictNs({view.id, state.waiting[0].bucket, 0, kOperators});
      EXPECT_GE(state.waiting[0].due_ns(), now_ns_ + WithMargin(alone_ns)) << "what is hopeless is served in order";
    }
  }
  EXPECT_GT(went_on, 500u);
  EXPECT_GT(passed_by, 0u);
  EXPECT_GT(began, 500u);
  EXPECT_GT(shed, 50u);
}

// Every group was worth forming: it takes less than its ranges one after another.
TEST_F(HeadroomAnyStateTest, AGroupTakesLessThanItsRangesOneAfterAnother) {
  size_t groups = 0;
  for (int i = 0; i < 1000; ++i) {
    RandomiseAll();
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      std::vector<OperatorRange> group;
      uint64_t sum_ns = 0;
      for (const Assignment& a : NextOf(packing).assignments) {
        group.push_back(a.range());
        sum_ns += model_.PredictNs(a.range());
      }
      if (group.size() < 2) continue;
      ++groups;
      EXPECT_LT(model_.PredictNs(group), sum_ns);
    }
  }
  EXPECT_GT(groups, 200u);
}

}  // namespace
}  // namespace abacus
