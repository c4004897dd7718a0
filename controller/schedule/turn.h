// Turn: what a service would run next under a policy that ranks services by one moment: its unfinished job, or else a
// batch that begins with one of its queries, which is formed only once the turn is taken.
//
// Thread rule: plain values and pure functions. Ownership: borrows the view.
#ifndef ABACUS_CONTROLLER_SCHEDULE_TURN_H_
#define ABACUS_CONTROLLER_SCHEDULE_TURN_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#include "controller/schedule/policy.h"

namespace abacus {

struct Turn {
  const ServiceView* service = nullptr;
  uint32_t lead = 0;     // index of ServiceView::waiting, unless a job is unfinished
  uint64_t time_ns = 0;  // by which it is ranked: when it arrived, or when it is due
  uint64_t order = 0;

  // Of a view that has work.
  static Turn Oldest(const ServiceView& service) {
    if (const Job* job = service.unfinished) return {&service, 0, job->arrival_ns(), job->order()};
    const auto oldest = std::ranges::min_element(service.waiting, {}, &WaitingQuery::order);
    return {&service, static_cast<uint32_t>(oldest - service.waiting.begin()), oldest->arrival_ns, oldest->order};
  }
  static Turn MostUrgent(const ServiceView& service) {
    if (const Job* job = service.unfinished) return {&service, 0, job->due_ns(), job->order()};
    return DueAt(service, 0);
  }
  // Of a view without an unfinished job.
  static Turn DueAt(const ServiceView& service, uint32_t lead) {
    return {&service, lead, service.waiting[lead].due_ns(), service.waiting[lead].order};
  }

  bool IsBefore(const Turn& other) const { return std::tie(time_ns, order) < std::tie(other.time_ns, other.order); }
  // The unfinished job, to its end, or else the batch that form(service, lead) gives.
  template <class Form>
  Assignment Take(const Form& form) const {
    const Candidate candidate =
        service->unfinished != nullptr ? Candidate::Resume(*service) : Candidate::Begin(form(*service, lead));
    return candidate.UpTo(candidate.operators);
  }
};

// The first among those that turn_of(service) gives, if it gives any, of the idle services that have work.
template <class TurnOf>
std::optional<Turn> FirstTurn(const Snapshot& snapshot, const TurnOf& turn_of) {
  std::optional<Turn> first;
  for (const ServiceView& service : snapshot.services) {
    if (!service.idle() || !service.has_work()) continue;
    const std::optional<Turn> turn = turn_of(service);
    if (turn && (!first || turn->IsBefore(*first))) first = turn;
  }
  return first;
}

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_TURN_H_
