// Services that are unlike each other, in states of every kind, for what must hold of every plan.
#ifndef ABACUS_TESTS_CONTROLLER_SCHEDULE_ANY_STATE_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_SCHEDULE_ANY_STATE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <tuple>
#include <vector>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {

class AnyStateFixture : public BatchFixture {
 protected:
  AnyStateFixture() : BatchFixture(5) {
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
  static bool CanRun(const State& state) {
    return state.view.serving && state.view.running == nullptr &&
           (state.view.unfinished != nullptr || !state.waiting.empty());
  }
  bool AnyCanRun() const { return std::ranges::any_of(services_, CanRun); }

  // What the scheduler would not have to mend, one assignment a service at most.
  void ExpectAllowed(const Plan& plan) const {
    std::vector<ServiceId> services;
    for (const Assignment& assignment : plan.assignments) {
      ExpectAllowed(assignment);
      EXPECT_THAT(services, testing::Not(testing::Contains(assignment.service)));
      services.push_back(assignment.service);
    }
  }
  void ExpectAllowed(const Assignment& assignment) const {
    const State& state = services_[assignment.service.value()];
    ASSERT_TRUE(state.view.serving && state.view.running == nullptr);
    ASSERT_EQ(assignment.resumes, state.view.unfinished != nullptr);
    EXPECT_LT(assignment.first, assignment.last);
    EXPECT_LE(assignment.last, kOperators);
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
      EXPECT_TRUE(assignment.queries.size() == 1 || !query.probe());
      EXPECT_TRUE(exact ? query.sequence == length : query.sequence <= length);
      rows += query.rows;
    }
    EXPECT_LE(rows, batch);
    EXPECT_TRUE(assignment.queries.size() == 1 || rows <= state.view.max_batch);
    EXPECT_TRUE(state.view.batchable || rows == batch) << "exactly the size of the bucket";
  }

  // All that a plan says, to compare.
  static auto Fields(const Plan& plan) {
    std::vector<std::tuple<uint32_t, bool, std::vector<uint32_t>, uint32_t, uint32_t, uint32_t>> fields;
    for (const Assignment& a : plan.assignments) {
      fields.emplace_back(a.service.value(), a.resumes, std::vector<uint32_t>(a.queries.begin(), a.queries.end()),
                          a.bucket, a.first, a.last);
    }
    return std::tuple(fields, plan.wake_ns, plan.urgent_order, plan.worth_per_time);
  }

  std::mt19937 random_{7};
  const uint64_t now_ns_ = 1000 * kMs;
  const Job running_;
  bool calm_ = false;  // few queries, none of which has waited for 800 us
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_SCHEDULE_ANY_STATE_FIXTURE_H_
