#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/clock.h"
#include "controller/schedule/arrival_policy.h"
#include "controller/schedule/clockwork_policy.h"
#include "controller/schedule/headroom_policy.h"
#include "controller/schedule/one_at_a_time.h"
#include "controller/schedule/policy.h"

namespace abacus {

Candidate Candidate::Resume(const ServiceView& service) {
  const Job& job = *service.unfinished;
  return {&service, true, {}, job.bucket, job.next_operator, job.operators, job.order()};
}

Candidate Candidate::Begin(const Batch& batch) {
  const ServiceView& service = *batch.service;
  Candidate candidate{&service,  false, batch.queries, batch.bucket, 0, service.buckets[batch.bucket].operators,
                      UINT64_MAX};
  for (const uint32_t index : batch.queries) {
    candidate.order = std::min(candidate.order, service.waiting[index].order);
  }
  return candidate;
}

Result<std::unique_ptr<Policy>> MakePolicy(const SchedulerConfig& config) {
  using Workers = ArrivalPolicy::Workers;
  using Rank = OneAtATime::Rank;
  const std::string_view name = config.policy;
  const uint64_t delay_ns = config.max_queue_delay_us * kNsPerUs;
  if (name == "abacus") return std::make_unique<HeadroomPolicy>(config.packing);
  if (name == "fcfs") return std::make_unique<ArrivalPolicy>("fcfs", Workers::kExclusive, 0);
  if (name == "sjf") return std::make_unique<OneAtATime>("sjf", Rank::kShortest);
  if (name == "edf") return std::make_unique<OneAtATime>("edf", Rank::kMostUrgent);
  if (name == "free") return std::make_unique<ArrivalPolicy>("free", Workers::kFree, 0);
  if (name == "delay") return std::make_unique<ArrivalPolicy>("delay", Workers::kExclusive, delay_ns);
  if (name == "delay-free") return std::make_unique<ArrivalPolicy>("delay-free", Workers::kFree, delay_ns);
  if (name == "clockwork") return std::make_unique<ClockworkPolicy>();
  return Error(StatusCode::kInvalidArgument,
               fmt::format("unknown policy '{}'; one of {}", name, fmt::join(kPolicyNames, ", ")));
}

}  // namespace abacus
