#include "controller/schedule/arrival_policy.h"

#include <algorithm>
#include <optional>

#include "controller/schedule/batching.h"
#include "controller/schedule/turn.h"

namespace abacus {
namespace {

bool IsFull(const ServiceView& service) {
  if (!service.batchable || service.waiting.size() >= kMaxJobQueries) return true;
  uint64_t rows = 0;
  for (const WaitingQuery& query : service.waiting) rows += query.rows;
  return rows >= service.max_batch;
}

}  // namespace

Plan ArrivalPolicy::Next(const Snapshot& snapshot) const {
  const auto form = [&](const ServiceView& service, uint32_t lead) {
    return GreedyBatch(service, *snapshot.latency, lead, BatchOrder::kArrival);
  };
  Plan plan;
  std::optional<Turn> first;
  for (const ServiceView& service : snapshot.services) {
    if (!service.idle() || !service.has_work()) continue;
    const Turn turn = Turn::Oldest(service);
    const uint64_t ready_ns = turn.time_ns + delay_ns_;
    if (snapshot.now_ns < ready_ns && service.unfinished == nullptr && !IsFull(service)) {
      plan.wake_ns = std::min(plan.wake_ns, ready_ns);
    } else if (workers_ == Workers::kFree) {
      plan.assignments.push_back(turn.Take(form));
    } else if (!first || turn.IsBefore(*first)) {
      first = turn;
    }
  }
  if (first) {
    plan.assignments.push_back(first->Take(form));
    plan.wake_ns = UINT64_MAX;  // whoever else waits has to wait for the end of this round anyway
  }
  return plan;
}

}  // namespace abacus
