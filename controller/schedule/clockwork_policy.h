// ClockworkPolicy: one job at a time, as large as its deadlines allow ("clockwork").
//
// Of each service the most urgent query that can still make its deadline leads; the service whose lead is due first
// runs the largest batch from there on, in the order of urgency, that is predicted (alone, with the safety margin) to
// be done when its lead is due, and with it all the others, which are due later. A query that cannot make it even alone
// does not run while anything else can: the scheduler answers it, unless it was told not to (`abandon`).
//
// Only where nothing can make it with the margin does what can without it go; and where nothing can at all, the greedy
// batch of the most urgent service: all of it is late, so what counts is to get it done.
//
// Reference: Gujarati et al., OSDI '20 (Clockwork), section 5.3: batches are chosen by the earliest deadline that they
// hold, and requests that would be late are dropped. Pure; allocates no more than batching.h does.
#ifndef ABACUS_CONTROLLER_SCHEDULE_CLOCKWORK_POLICY_H_
#define ABACUS_CONTROLLER_SCHEDULE_CLOCKWORK_POLICY_H_

#include <string_view>

#include "controller/schedule/policy.h"

namespace abacus {

class ClockworkPolicy : public Policy {
 public:
  std::string_view name() const override { return "clockwork"; }
  Plan Next(const Snapshot& snapshot) const override;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_CLOCKWORK_POLICY_H_
