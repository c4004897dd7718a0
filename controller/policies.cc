// The baselines of the evaluation.
//
// fcfs, sjf and edf run one job at a time over all services, whole, and differ only in which waiting job goes first:
// the oldest, the shortest (predicted solo time of what is left), or the one with the earliest deadline. Ties go to the
// older job. free is plain MPS: no control at all, every idle worker takes its service's oldest job at once.
#include "controller/headroom_policy.h"
#include "controller/policy.h"

namespace abacus {
namespace {

Assignment Remainder(Job* job) { return {job, job->next_operator, job->operators}; }

// One job at a time; `Key` orders the waiting jobs, smallest first.
template <uint64_t (*Key)(const Job&)>
class OneAtATime : public Policy {
 public:
  explicit OneAtATime(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }

  Plan Next(const Snapshot& snapshot) const override {
    Plan plan;
    Job* best = nullptr;
    const auto before = [](const Job& a, const Job& b) {
      const uint64_t ka = Key(a), kb = Key(b);
      return ka != kb ? ka < kb : a.id < b.id;
    };
    for (const ServiceView& service : snapshot.services) {
      if (!service.idle()) continue;
      for (Job* job : service.waiting) {
        if (best == nullptr || before(*job, *best)) best = job;
      }
    }
    if (best != nullptr) plan.assignments.push_back(Remainder(best));
    return plan;
  }

 private:
  const std::string_view name_;
};

uint64_t ByArrival(const Job& job) { return job.arrival_ns; }
uint64_t ByLength(const Job& job) {
  return job.operators == 0 ? job.solo_ns : job.solo_ns * (job.operators - job.next_operator) / job.operators;
}
uint64_t ByDeadline(const Job& job) { return job.deadline_ns; }

class Free : public Policy {
 public:
  std::string_view name() const override { return "free"; }
  bool in_rounds() const override { return false; }
  Plan Next(const Snapshot& snapshot) const override {
    Plan plan;
    for (const ServiceView& service : snapshot.services) {
      if (service.idle() && !service.waiting.empty()) plan.assignments.push_back(Remainder(service.waiting.front()));
    }
    return plan;
  }
};

}  // namespace

Result<std::unique_ptr<Policy>> MakePolicy(const std::string& name, Packing packing) {
  if (name == "abacus") return std::make_unique<HeadroomPolicy>(packing);
  if (name == "fcfs") return std::make_unique<OneAtATime<ByArrival>>("fcfs");
  if (name == "sjf") return std::make_unique<OneAtATime<ByLength>>("sjf");
  if (name == "edf") return std::make_unique<OneAtATime<ByDeadline>>("edf");
  if (name == "free") return std::make_unique<Free>();
  return Error(StatusCode::kInvalidArgument, "unknown policy '" + name + "'; one of abacus, fcfs, sjf, edf, free");
}

}  // namespace abacus
