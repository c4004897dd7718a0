// The baselines of the evaluation.
//
// fcfs, sjf and edf run one job at a time over all services, whole, and differ only in which one goes first: the
// oldest, the shortest (predicted time of what is left, alone), or the one with the earliest deadline. Ties go to the
// older one. free is plain MPS: no control at all, every idle worker takes its service's oldest query at once.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "controller/schedule/headroom_policy.h"
#include "controller/schedule/policy.h"

namespace abacus {
namespace {

// One job at a time; `Key` orders the candidates, smallest first.
template <uint64_t (*Key)(const Candidate&, const Snapshot&)>
class OneAtATime : public Policy {
 public:
  explicit OneAtATime(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }

  Plan Next(const Snapshot& snapshot) const override {
    Candidate best;
    uint64_t best_key = 0;
    const auto consider = [&](const Candidate& candidate) {
      const uint64_t key = Key(candidate, snapshot);
      if (best.service == nullptr || key < best_key || (key == best_key && candidate.order < best.order)) {
        best = candidate;
        best_key = key;
      }
    };
    for (const ServiceView& service : snapshot.services) {
      if (!service.idle()) continue;
      if (service.unfinished != nullptr) {
        consider(Candidate::Resume(service));
        continue;
      }
      for (uint32_t i = 0; i < service.waiting.size(); ++i) consider(Candidate::Begin(service, i));
    }
    Plan plan;
    if (best.service != nullptr) plan.assignments.push_back(best.UpTo(best.operators));
    return plan;
  }

 private:
  const std::string_view name_;
};

uint64_t ByArrival(const Candidate& candidate, const Snapshot&) { return candidate.arrival_ns; }
uint64_t ByLength(const Candidate& candidate, const Snapshot& snapshot) {
  return snapshot.latency->PredictNs(candidate.rest());
}
uint64_t ByDeadline(const Candidate& candidate, const Snapshot&) { return candidate.deadline_ns; }

class Free : public Policy {
 public:
  std::string_view name() const override { return "free"; }
  bool in_rounds() const override { return false; }
  Plan Next(const Snapshot& snapshot) const override {
    Plan plan;
    for (const ServiceView& service : snapshot.services) {
      if (!service.idle() || !service.has_work()) continue;
      const Candidate next = service.unfinished != nullptr ? Candidate::Resume(service) : Candidate::Begin(service, 0);
      plan.assignments.push_back(next.UpTo(next.operators));
    }
    return plan;
  }
};

}  // namespace

Candidate Candidate::Resume(const ServiceView& service) {
  const Job& job = *service.unfinished;
  return {&service, true, 0, job.bucket, job.next_operator, job.operators, job.order(), job.arrival_ns(), job.due_ns()};
}

Candidate Candidate::Begin(const ServiceView& service, uint32_t query) {
  const WaitingQuery& waiting = service.waiting[query];
  return {&service,
          false,
          query,
          waiting.bucket,
          0,
          service.buckets[waiting.bucket].operators,
          waiting.order,
          waiting.arrival_ns,
          waiting.due_ns()};
}

Assignment Candidate::UpTo(uint32_t last) const {
  Assignment assignment{service->id, resumes, {}, bucket, first, last};
  if (!resumes) assignment.queries.push_back(query);
  return assignment;
}

Result<std::unique_ptr<Policy>> MakePolicy(const std::string& name, Packing packing) {
  if (name == "abacus") return std::make_unique<HeadroomPolicy>(packing);
  if (name == "fcfs") return std::make_unique<OneAtATime<ByArrival>>("fcfs");
  if (name == "sjf") return std::make_unique<OneAtATime<ByLength>>("sjf");
  if (name == "edf") return std::make_unique<OneAtATime<ByDeadline>>("edf");
  if (name == "free") return std::make_unique<Free>();
  return Error(StatusCode::kInvalidArgument,
               fmt::format("unknown policy '{}'; one of {}", name, fmt::join(kPolicyNames, ", ")));
}

}  // namespace abacus
