// HeadroomPolicy: Abacus's own policy ("abacus"). Each round it packs operator ranges of different services into the
// headroom of the most urgent query.
//
// Urgency. A service is as urgent as the earliest deadline among all that waits there. What it runs next is the job
// that ran in part, if there is one (a worker keeps one job in progress, so that one blocks the others and inherits
// their urgency), else the query with the earliest deadline. Ties go to the older one.
//
// Round. The most urgent job runs to its end. Its headroom is the time from the round's start to its deadline. The
// others join in order of urgency. The time of every group is predicted, and has to fit the headroom with the safety
// margin. A group that is predicted to take as long as its parts one after another is not formed.
//   packing "furthest" (as published): each other job joins with all that it has left; the first that
//     joins only up to a cut, the furthest that fits, ends the round.
//   packing "balanced": each other job joins up to the cut at which the group does the most solo time per predicted
//     time. A job that goes on alone after its neighbours have ended gains nothing, keeps the next query waiting and
//     can go on just as well in the next round, beside new neighbours.
// Cuts are searched in steps of kSearchWays evaluated together.
//
// When the most urgent job cannot make it even alone, headroom is that of the next one that can; when none can, groups
// are formed for throughput alone.
//
// No starvation: a job that waits is the most urgent at the latest when its deadline is the earliest, and deadlines do
// not move. Jobs that arrive later than `deadline - (shortest target in use)` come behind it, so it starts after at
// most the jobs that were ahead of it then; tests/controller/schedule/headroom_policy_test.cc holds it to that bound.
//
// Reference: Cui et al., SC '21, section 6 (query controller). Pure; allocates nothing.
#ifndef ABACUS_CONTROLLER_SCHEDULE_HEADROOM_POLICY_H_
#define ABACUS_CONTROLLER_SCHEDULE_HEADROOM_POLICY_H_

#include "controller/schedule/policy.h"

namespace abacus {

class HeadroomPolicy : public Policy {
 public:
  explicit HeadroomPolicy(Packing packing) : packing_(packing) {}
  std::string_view name() const override { return "abacus"; }
  Plan Next(const Snapshot& snapshot) const override;

 private:
  const Packing packing_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_HEADROOM_POLICY_H_
