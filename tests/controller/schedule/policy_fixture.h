// Services with waiting queries and unfinished jobs, built by hand, for tests of policies.
#ifndef ABACUS_TESTS_CONTROLLER_SCHEDULE_POLICY_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_SCHEDULE_POLICY_FIXTURE_H_

#include <gtest/gtest.h>

#include <vector>

#include "controller/schedule/policy.h"

namespace abacus {

// Something that a policy can pick: a waiting query, or an unfinished job.
struct Work {
  uint64_t order = 0;
  uint32_t service = 0;
  uint64_t deadline_ns = 0;
  uint32_t next_operator = 0;
  friend bool operator==(const Work& a, const Work& b) { return a.order == b.order; }
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
  std::vector<ServiceView> Views() {
    std::vector<ServiceView> views;
    for (State& state : services_) {
      state.view.waiting = state.waiting;
      state.view.buckets = state.buckets;
      views.push_back(state.view);
    }
    return views;
  }
  // What an assignment stands for.
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
    Job unfinished;
  };
  const uint32_t operators_;
  std::vector<State> services_;
  uint64_t last_order_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_SCHEDULE_POLICY_FIXTURE_H_
