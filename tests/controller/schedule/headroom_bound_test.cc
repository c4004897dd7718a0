// The bound of headroom_policy.h on how long a query waits, in rounds that are played on here one after another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "controller/schedule/headroom_policy.h"
#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

class HeadroomBoundTest : public BatchFixture {
 protected:
  HeadroomBoundTest() : BatchFixture(3) {}

  uint64_t Arrive(uint32_t service, uint64_t target_ns, uint32_t rows = 1, uint32_t length = 0) {
    return WaitRows(service, now_ns_, now_ns_ + target_ns, rows, length);
  }
  bool AnyWork() const {
    return std::ranges::any_of(
        services_, [](const State& state) { return state.view.unfinished != nullptr || !state.waiting.empty(); });
  }
  // Plans a round, lets it run, and remembers whom it began with. Nobody is abandoned.
  void RunRound(Packing packing) {
    const std::vector<ServiceView> views = Views();
    const Plan plan = HeadroomPolicy(packing).Next({now_ns_, views, &model_, 0.02});
    ASSERT_FALSE(plan.assignments.empty());
    std::vector<OperatorRange> group;
    begun_.clear();
    for (const Assignment& assignment : plan.assignments) {
      group.push_back(assignment.range());
      Advance(assignment);
    }
    now_ns_ += model_.PredictNs(group);
  }
  void Advance(const Assignment& assignment) {
    State& state = services_[assignment.service.value()];
    if (!assignment.resumes) {
      state.unfinished = Job{};
      state.unfinished.bucket = assignment.bucket;
      state.unfinished.operators = kOperators;
      for (size_t i = assignment.queries.size(); i-- > 0;) {
        const auto query = state.waiting.begin() + assignment.queries[i];
        begun_.insert(query->order);
        state.unfinished.queries.push_back(*query);
        state.waiting.erase(query);
      }
    }
    state.unfinished.next_operator = assignment.last;
    state.view.unfinished = assignment.last < kOperators ? &state.unfinished : nullptr;
  }
  // Rounds in which a query that is due has to begin: one for each more urgent one that waits and for each job in
  // progress, times those that a job may take, and its own.
  size_t RoundsFor(const WaitingQuery& query, size_t rounds_of_a_job) const {
    size_t ahead = 0;
    for (const State& state : services_) {
      ahead += state.view.unfinished != nullptr ? 1 : 0;
      ahead += static_cast<size_t>(std::ranges::count_if(state.waiting, [&](const WaitingQuery& other) {
        return std::pair(other.due_ns(), other.order) < std::pair(query.due_ns(), query.order);
      }));
    }
    return ahead * rounds_of_a_job + 1;
  }
  // One round, in which none of those that are due may use up its rounds.
  void RunRoundWithinBounds(Packing packing, size_t rounds_of_a_job) {
    for (const State& state : services_) {
      for (const WaitingQuery& query : state.waiting) {
        if (query.due_ns() <= now_ns_ && !rounds_left_.contains(query.order)) {
          rounds_left_[query.order] = RoundsFor(query, rounds_of_a_job);
        }
      }
    }
    ASSERT_NO_FATAL_FAILURE(RunRound(packing));
    for (const uint64_t order : begun_) late_ += rounds_left_.erase(order);
    for (auto& [order, left] : rounds_left_) ASSERT_GT(--left, 0u) << "query " << order << " starves";
  }

  PartialOverlap model_{&latency_};
  uint64_t now_ns_ = 1000 * kMs;
  std::set<uint64_t> begun_;
  std::map<uint64_t, size_t> rounds_left_;  // of queries that are due and wait
  size_t late_ = 0;                         // of those that were due, how many have begun
};

// Service 0 is asked for twice what the device can do, at a tight target, and nobody gains by joining.
TEST_F(HeadroomBoundTest, AQueryBehindASaturatedServiceBegins) {
  SetShape(0, {1, 4, 8}, {}, 2 * kMs, kMs);  // 1.25 ms a row
  SetShape(1, {1}, {}, 6 * kMs, 0);
  model_.cost = 1;
  for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
    ClearWork();
    rounds_left_.clear();
    const uint64_t begin_ns = now_ns_, due_ns = begin_ns + 60 * kMs;
    uint64_t arrived_ns = now_ns_;
    const uint64_t lax = Arrive(1, due_ns - begin_ns);
    size_t ahead = 0;  // when it was due
    uint64_t due_round_ns = 0;
    do {
      for (; arrived_ns <= now_ns_; arrived_ns += kMs * 6 / 10) {
        WaitRows(0, arrived_ns, arrived_ns + 12 * kMs);
      }
      if (now_ns_ >= due_ns && due_round_ns == 0) {
        due_round_ns = now_ns_;
        ahead = RoundsFor(services_[1].waiting[0], 1) - 1;
      }
      ASSERT_NO_FATAL_FAILURE(RunRoundWithinBounds(packing, 1));
    } while (!begun_.contains(lax));
    EXPECT_GT(ahead, 20u) << "it was behind many";
    // They run in full batches, 10 ms each; and then its own.
    EXPECT_LE(now_ns_, due_round_ns + (ahead / 8 + 1) * 10 * kMs + 6 * kMs);
  }
}

TEST_F(HeadroomBoundTest, NobodyIsPassedOverForEver) {
  SetShape(0, {1, 4, 8}, {}, 2 * kMs, kMs / 2);
  SetShape(1, {1, 2, 4}, {16, 64}, kMs, kMs / 64);
  SetShape(2, {4, 16}, {}, kMs, kMs / 4);
  services_[2].view.max_batch = 10;
  std::mt19937 random(5);
  size_t late = 0;
  for (int trial = 0; trial < 40; ++trial) {
    const Packing packing = trial % 2 == 0 ? Packing::kBalanced : Packing::kFurthest;
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    ClearWork();
    rounds_left_.clear();
    model_.cost = 0.3 + 0.1 * static_cast<double>(random() % 8);
    // With targets jobs are cut at the horizon, at every cut point at worst.
    const bool targets = trial % 4 >= 2;
    for (State& state : services_) state.view.qos_ns = targets ? (8 + random() % 20) * kMs : 0;
    const uint32_t flooding = random() % 3;
    const uint64_t until_ns = now_ns_ + 150 * kMs;
    uint64_t arrived_ns = now_ns_;
    while (now_ns_ < until_ns || AnyWork()) {
      for (; arrived_ns <= now_ns_ && arrived_ns < until_ns; arrived_ns += random() % kMs) {
        const uint32_t s = random() % 4 == 0 ? random() % 3 : flooding;
        const uint64_t target_ns = (s == flooding ? 4 + random() % 10 : 4 + random() % 60) * kMs;
        WaitRows(s, arrived_ns, arrived_ns + target_ns, 1 + random() % 2, s == 1 ? 1 + random() % 64 : 0);
      }
      if (!AnyWork()) {
        now_ns_ += kMs;
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(RunRoundWithinBounds(packing, targets ? kOperators : 1));
    }
    late += std::exchange(late_, 0);
    EXPECT_TRUE(rounds_left_.empty());
  }
  EXPECT_GT(late, 1000u) << "there was too much to do";
}

}  // namespace
}  // namespace abacus
