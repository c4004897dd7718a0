#include "controller/schedule/arrival_policy.h"

#include <algorithm>
#include <tuple>

#include "controller/schedule/batching.h"

namespace abacus {
namespace {

// What a service would run: its unfinished job, or the batch that begins with its oldest query.
struct Turn {
  const ServiceView* service = nullptr;
  uint32_t lead = 0;  // index of ServiceView::waiting, unless a job is unfinished
  uint64_t arrival_ns = 0;
  uint64_t order = 0;

  bool IsBefore(const Turn& other) const {
    return std::tie(arrival_ns, order) < std::tie(other.arrival_ns, other.order);
  }
};

Turn TurnOf(const ServiceView& service) {
  if (service.unfinished != nullptr)
    return {&service, 0, service.unfinished->arrival_ns(), service.unfinished->order()};
  const auto oldest = std::ranges::min_element(service.waiting, {}, &WaitingQuery::order);
  return {&service, static_cast<uint32_t>(oldest - service.waiting.begin()), oldest->arrival_ns, oldest->order};
}

bool IsFull(const ServiceView& service) {
  if (!service.batchable || service.waiting.size() >= kMaxJobQueries) return true;
  uint64_t rows = 0;
  for (const WaitingQuery& query : service.waiting) rows += query.rows;
  return rows >= service.max_batch;
}

Assignment Run(const Turn& turn, const LatencyModel& latency) {
  const ServiceView& service = *turn.service;
  const Candidate candidate = service.unfinished != nullptr
                                  ? Candidate::Resume(service)
                                  : Candidate::Begin(GreedyBatch(service, latency, turn.lead, BatchOrder::kArrival));
  return candidate.UpTo(candidate.operators);
}

}  // namespace

Plan ArrivalPolicy::Next(const Snapshot& snapshot) const {
  Plan plan;
  Turn first;
  for (const ServiceView& service : snapshot.services) {
    if (!service.idle() || !service.has_work()) continue;
    const Turn turn = TurnOf(service);
    const uint64_t ready_ns = turn.arrival_ns + delay_ns_;
    if (snapshot.now_ns < ready_ns && service.unfinished == nullptr && !IsFull(service)) {
      plan.wake_ns = std::min(plan.wake_ns, ready_ns);
    } else if (workers_ == Workers::kFree) {
      plan.assignments.push_back(Run(turn, *snapshot.latency));
    } else if (first.service == nullptr || turn.IsBefore(first)) {
      first = turn;
    }
  }
  if (first.service != nullptr) {
    plan.assignments.push_back(Run(first, *snapshot.latency));
    plan.wake_ns = UINT64_MAX;  // whoever else waits has to wait for the end of this round anyway
  }
  return plan;
}

}  // namespace abacus
