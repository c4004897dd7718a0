// Services with waiting queries and unfinished jobs, built by hand, for tests of policies.
#ifndef ABACUS_TESTS_CONTROLLER_SCHEDULE_POLICY_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_SCHEDULE_POLICY_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "controller/schedule/policy.h"
#include "predictor/additive_model.h"

namespace abacus {

// The policy of a configuration that says nothing else.
inline std::unique_ptr<Policy> PolicyNamed(const std::string& name, uint32_t max_queue_delay_us = 0) {
  SchedulerConfig config;
  config.policy = name;
  config.max_queue_delay_us = max_queue_delay_us;
  return MakePolicy(config).value();
}

// Something that a policy can pick: a waiting query, or an unfinished job.
struct Work {
  uint64_t order = 0;
  uint32_t service = 0;
  uint64_t deadline_ns = 0;
  uint32_t next_operator = 0;
  friend bool operator==(const Work& a, const Work& b) { return a.order == b.order; }
};

// A group takes its longest range and `cost` of the others: 0: overlap is free, 1: it gains nothing.
class PartialOverlap : public LatencyModel {
 public:
  // Borrowed: how long each range takes alone.
  explicit PartialOverlap(const LatencyModel* alone) : alone_(*alone) {}
  std::string_view name() const override { return "partial overlap"; }
  Prediction Predict(std::span<const OperatorRange> group) const override {
    uint64_t sum_ns = 0, longest_ns = 0;
    for (const OperatorRange& range : group) {
      const uint64_t solo_ns = alone_.PredictNs(range);
      sum_ns += solo_ns;
      longest_ns = std::max(longest_ns, solo_ns);
    }
    return {longest_ns + static_cast<uint64_t>(cost * static_cast<double>(sum_ns - longest_ns)), true};
  }
  double cost = 0.5;

 private:
  const LatencyModel& alone_;
};

class PolicyFixture : public testing::Test {
 protected:
  PolicyFixture(size_t services, uint32_t operators) : operators_(operators), services_(services) {
    for (size_t i = 0; i < services; ++i) {
      services_[i].view.id = ServiceId(i);
      services_[i].view.serving = true;
    }
  }
  // A query waits; with `next_operator` > 0 it is in a job that ran up to there.
  Work Wait(uint32_t service, uint64_t arrival_ns, uint64_t deadline_ns, uint32_t bucket, uint32_t next_operator = 0) {
    WaitingQuery query;
    query.rows = 1;
    query.bucket = bucket;
    query.order = ++last_order_;
    query.arrival_ns = arrival_ns;
    query.deadline_ns = deadline_ns;
    State& state = services_[service];
    if (next_operator == 0) {
      state.waiting.push_back(query);
    } else {
      state.unfinished = Job{};
      state.unfinished.bucket = bucket;
      state.unfinished.operators = operators_;
      state.unfinished.next_operator = next_operator;
      state.unfinished.rows = query.rows;
      state.unfinished.queries.push_back(query);
      state.view.unfinished = &state.unfinished;
    }
    return {query.order, service, deadline_ns, next_operator};
  }
  // One more bucket of a service.
  void AddBucket(uint32_t service, uint64_t solo_ns, std::vector<uint32_t> cuts) {
    services_[service].buckets.push_back({operators_, solo_ns, std::move(cuts)});
  }
  void ClearWork() {
    for (State& state : services_) {
      state.waiting.clear();
      state.view.unfinished = nullptr;
    }
  }
  // Brings what waits into the order that policies see.
  std::vector<ServiceView> Views() {
    const auto urgency = [](const WaitingQuery& query) { return std::pair(query.due_ns(), query.order); };
    std::vector<ServiceView> views;
    for (State& state : services_) {
      std::ranges::stable_sort(state.waiting, {}, urgency);
      state.view.waiting = state.waiting;
      state.view.buckets = state.buckets;
      state.view.spec = &state.spec;
      views.push_back(state.view);
    }
    return views;
  }
  // What an assignment of one query stands for.
  Work WorkOf(const Assignment& assignment) const {
    const State& state = services_[assignment.service.value()];
    if (assignment.resumes) {
      EXPECT_TRUE(assignment.queries.empty());
      return {state.unfinished.order(), assignment.service.value(), state.unfinished.due_ns(), assignment.first};
    }
    EXPECT_EQ(assignment.queries.size(), 1u);
    EXPECT_EQ(assignment.first, 0u);
    const WaitingQuery& query = state.waiting[assignment.queries[0]];
    return {query.order, assignment.service.value(), query.deadline_ns, 0};
  }

  struct State {
    ServiceView view;
    std::vector<WaitingQuery> waiting;
    std::vector<WorkerRanges> buckets;
    ModelSpec spec;
    Job unfinished;
  };
  const uint32_t operators_;
  std::vector<State> services_;
  uint64_t last_order_ = 0;
};

// Services whose buckets have sizes, and whose queries have rows and lengths.
class BatchFixture : public PolicyFixture {
 protected:
  static constexpr uint64_t kMs = 1'000'000;
  static constexpr uint32_t kOperators = 8;

  explicit BatchFixture(size_t services) : PolicyFixture(services, kOperators) {}

  // A pass takes base_ns, and row_ns for each row and (where there are lengths) token, padding included.
  void SetShape(uint32_t service, std::vector<int64_t> batches, std::vector<int64_t> lengths, uint64_t base_ns,
                uint64_t row_ns) {
    State& state = services_[service];
    state.spec.batch_sizes = std::move(batches);
    state.spec.sequence_lengths = std::move(lengths);
    state.view.max_batch = static_cast<uint32_t>(state.spec.batch_sizes.back());
    state.buckets.clear();
    std::vector<uint32_t> cuts;
    for (uint32_t cut = 0; cut <= kOperators; ++cut) cuts.push_back(cut);
    for (uint32_t bucket = 0; bucket < state.spec.bucket_count(); ++bucket) {
      const auto [batch, length] = state.spec.bucket(bucket);
      const uint64_t ns = base_ns + row_ns * static_cast<uint64_t>(batch * std::max<int64_t>(1, length));
      AddBucket(service, ns, cuts);
      latency_.SetBucket(ServiceId(service), bucket, cuts, ns);
    }
  }
  // Returns its order.
  uint64_t WaitRows(uint32_t service, uint64_t arrival_ns, uint64_t deadline_ns, uint32_t rows = 1,
                    uint32_t length = 0) {
    State& state = services_[service];
    const uint32_t bucket = state.spec.FindBucket(rows, length).value();
    Wait(service, arrival_ns, deadline_ns, bucket);
    state.waiting.back().rows = rows;
    state.waiting.back().sequence = length;
    return last_order_;
  }
  // All that waits there is in one job that ran up to `next_operator`.
  void RunInPart(uint32_t service, uint32_t next_operator) {
    State& state = services_[service];
    state.unfinished = Job{};
    uint32_t length = 0;
    for (const WaitingQuery& query : state.waiting) {
      state.unfinished.queries.push_back(query);
      state.unfinished.rows += query.rows;
      length = std::max(length, query.sequence);
    }
    state.waiting.clear();
    state.unfinished.bucket = state.spec.FindBucket(state.unfinished.rows, length).value();
    state.unfinished.operators = kOperators;
    state.unfinished.next_operator = next_operator;
    state.view.unfinished = &state.unfinished;
  }
  Plan Next(const Policy& policy, uint64_t now_ns, double margin = 0) {
    const std::vector<ServiceView> views = Views();
    return policy.Next({now_ns, views, &latency_, margin});
  }

  // What an assignment picked, as orders, most urgent first; of a job that goes on those of its queries.
  struct Picked {
    uint32_t service = 0;
    std::vector<uint64_t> orders;
    int64_t batch = 0;  // of the bucket
    friend bool operator==(const Picked&, const Picked&) = default;
    friend void PrintTo(const Picked& picked, std::ostream* stream) {
      *stream << "service " << picked.service << ", batch " << picked.batch << ", queries "
              << testing::PrintToString(picked.orders);
    }
  };
  std::vector<Picked> PickedBy(const Plan& plan) const {
    std::vector<Picked> all;
    for (const Assignment& assignment : plan.assignments) {
      const State& state = services_[assignment.service.value()];
      Picked picked{assignment.service.value(), {}, state.spec.bucket(assignment.bucket).batch};
      for (const uint32_t index : assignment.queries) picked.orders.push_back(state.waiting[index].order);
      if (assignment.resumes) {
        for (const WaitingQuery& query : state.unfinished.queries) picked.orders.push_back(query.order);
      }
      EXPECT_EQ(assignment.first, assignment.resumes ? state.unfinished.next_operator : 0);
      EXPECT_EQ(assignment.last, kOperators);
      all.push_back(picked);
    }
    return all;
  }

  AdditiveModel latency_;
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_SCHEDULE_POLICY_FIXTURE_H_
