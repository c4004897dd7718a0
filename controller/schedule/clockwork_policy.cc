#include "controller/schedule/clockwork_policy.h"

#include <array>
#include <optional>

#include "controller/schedule/batching.h"
#include "controller/schedule/turn.h"

namespace abacus {
namespace {

uint64_t DoneNs(const Snapshot& snapshot, const OperatorRange& rest) {
  return snapshot.now_ns + snapshot.WithMargin(snapshot.latency->PredictNs(rest));
}

// The most urgent of a service that can make its deadline.
std::optional<Turn> KeepsItsDeadline(const Snapshot& snapshot, const ServiceView& service) {
  if (service.unfinished != nullptr) {
    const Turn turn = Turn::MostUrgent(service);
    if (DoneNs(snapshot, Candidate::Resume(service).rest()) > turn.time_ns) return std::nullopt;
    return turn;
  }
  std::array<uint64_t, kMaxBuckets> done_ns{};  // by bucket; 0: not asked yet
  for (uint32_t i = 0; i < service.waiting.size(); ++i) {
    const uint32_t bucket = service.waiting[i].bucket;
    if (done_ns[bucket] == 0) {
      done_ns[bucket] = DoneNs(snapshot, {service.id, bucket, 0, service.buckets[bucket].operators});
    }
    if (done_ns[bucket] <= service.waiting[i].due_ns()) return Turn::DueAt(service, i);
  }
  return std::nullopt;
}

Plan Only(const Assignment& assignment) {
  Plan plan;
  plan.assignments.push_back(assignment);
  return plan;
}

}  // namespace

Plan ClockworkPolicy::Next(const Snapshot& snapshot) const {
  for (const double margin : {snapshot.margin, 0.0}) {
    Snapshot view = snapshot;
    view.margin = margin;
    const auto turn = FirstTurn(view, [&](const ServiceView& service) { return KeepsItsDeadline(view, service); });
    if (!turn) continue;
    return Only(turn->Take([&](const ServiceView& service, uint32_t lead) {
      return LargestWithin(service, view, lead, turn->time_ns - view.now_ns);
    }));
  }
  const auto late = FirstTurn(snapshot, Turn::MostUrgent);
  if (!late) return {};
  return Only(late->Take(
      [&](const ServiceView& service, uint32_t lead) { return GreedyBatch(service, *snapshot.latency, lead); }));
}

}  // namespace abacus
