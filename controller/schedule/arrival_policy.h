// ArrivalPolicy: batches in the order of arrival, whatever their deadlines: "fcfs", "free", "delay" and "delay-free".
//
// A service's batch begins with its oldest query and takes along what the greedy rule gives (batching.h). It is ready
// when it is full, or when its oldest query has waited for `delay_ns`: the dynamic batcher of a Triton server with
// max_queue_delay_microseconds. Without a delay it is always ready. Full: the rows that wait, or the queries, are as
// many as one job may have.
//
//   exclusive  "fcfs", "delay": of the ready batches the one whose oldest query is oldest runs, alone.
//   free       "free", "delay-free": every idle worker runs its service's ready batch at once, no rounds (plain MPS).
//
// Jobs that ran in part are always ready. Pure; allocates no more than batching.h does.
#ifndef ABACUS_CONTROLLER_SCHEDULE_ARRIVAL_POLICY_H_
#define ABACUS_CONTROLLER_SCHEDULE_ARRIVAL_POLICY_H_

#include <cstdint>
#include <string_view>

#include "controller/schedule/policy.h"

namespace abacus {

class ArrivalPolicy : public Policy {
 public:
  enum class Workers : uint8_t { kExclusive, kFree };

  // `name`: one of kPolicyNames.
  ArrivalPolicy(std::string_view name, Workers workers, uint64_t delay_ns)
      : name_(name), workers_(workers), delay_ns_(delay_ns) {}

  std::string_view name() const override { return name_; }
  bool in_rounds() const override { return workers_ == Workers::kExclusive; }
  Plan Next(const Snapshot& snapshot) const override;

 private:
  const std::string_view name_;
  const Workers workers_;
  const uint64_t delay_ns_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_ARRIVAL_POLICY_H_
