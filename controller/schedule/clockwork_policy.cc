#include "controller/schedule/clockwork_policy.h"

#include <array>
#include <optional>
#include <tuple>

#include "controller/schedule/batching.h"

namespace abacus {
namespace {

// What a service would begin with, or go on with.
struct Lead {
  const ServiceView* service = nullptr;
  uint32_t query = 0;  // index of ServiceView::waiting, unless a job is unfinished
  uint64_t due_ns = 0;
  uint64_t order = 0;
};

Lead LeadAt(const ServiceView& service, uint32_t query) {
  return {&service, query, service.waiting[query].due_ns(), service.waiting[query].order};
}

Lead LeadOf(const ServiceView& service) {
  const Job* const job = service.unfinished;
  return job != nullptr ? Lead{&service, 0, job->due_ns(), job->order()} : LeadAt(service, 0);
}

uint64_t DoneNs(const Snapshot& snapshot, const OperatorRange& rest) {
  return snapshot.now_ns + snapshot.WithMargin(snapshot.latency->PredictNs(rest));
}

// The most urgent of a service that can make its deadline.
std::optional<Lead> KeepsItsDeadline(const Snapshot& snapshot, const ServiceView& service) {
  if (service.unfinished != nullptr) {
    const Lead lead = LeadOf(service);
    if (DoneNs(snapshot, Candidate::Resume(service).rest()) > lead.due_ns) return std::nullopt;
    return lead;
  }
  std::array<uint64_t, kMaxBuckets> done_ns{};  // by bucket; 0: not asked yet
  for (uint32_t i = 0; i < service.waiting.size(); ++i) {
    const uint32_t bucket = service.waiting[i].bucket;
    if (done_ns[bucket] == 0) {
      done_ns[bucket] = DoneNs(snapshot, {service.id, bucket, 0, service.buckets[bucket].operators});
    }
    if (done_ns[bucket] <= service.waiting[i].due_ns()) return LeadAt(service, i);
  }
  return std::nullopt;
}

// The most urgent of those that lead_of(service) gives.
template <class LeadOfService>
std::optional<Lead> MostUrgent(const Snapshot& snapshot, const LeadOfService& lead_of) {
  std::optional<Lead> first;
  for (const ServiceView& service : snapshot.services) {
    if (!service.idle() || !service.has_work()) continue;
    const std::optional<Lead> lead = lead_of(service);
    if (lead && (!first || std::tie(lead->due_ns, lead->order) < std::tie(first->due_ns, first->order))) first = lead;
  }
  return first;
}

// The unfinished job of the lead, to its end, or else the one that form(service, query) gives.
template <class Form>
Plan Run(const Lead& lead, const Form& form) {
  const Candidate candidate = lead.service->unfinished != nullptr ? Candidate::Resume(*lead.service)
                                                                  : Candidate::Begin(form(*lead.service, lead.query));
  Plan plan;
  plan.assignments.push_back(candidate.UpTo(candidate.operators));
  return plan;
}

}  // namespace

Plan ClockworkPolicy::Next(const Snapshot& snapshot) const {
  for (const double margin : {snapshot.margin, 0.0}) {
    Snapshot view = snapshot;
    view.margin = margin;
    const auto lead = MostUrgent(view, [&](const ServiceView& service) { return KeepsItsDeadline(view, service); });
    if (!lead) continue;
    return Run(*lead, [&](const ServiceView& service, uint32_t query) {
      return LargestWithin(service, view, query, lead->due_ns - view.now_ns);
    });
  }
  const auto late = MostUrgent(snapshot, [](const ServiceView& service) { return std::optional(LeadOf(service)); });
  if (!late) return {};
  return Run(*late, [&](const ServiceView& service, uint32_t query) {
    return GreedyBatch(service, *snapshot.latency, query);
  });
}

}  // namespace abacus
