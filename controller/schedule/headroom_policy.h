// HeadroomPolicy: Abacus's own policy ("abacus"). Each round it chooses together which queries become batches and which
// operator ranges of different services overlap: the group with the most worth per predicted time (batching.h) in which
// every deadline is kept that can be.
//
// Urgency. A service is as urgent as the earliest deadline among all that waits there. What it runs next is the job
// that ran in part, if there is one (a worker keeps one job in progress, so that one blocks the others and inherits
// their urgency), else a batch that begins with its most urgent query (demand.h). Ties go to the older one.
//
// Round. The most urgent service always takes part. The others join in order of urgency. Every group's time is
// predicted, and with the safety margin it has to end
//   - by the deadline of each service that has done its most urgent query by then, and else while there is time for
//     what is left of its job, or for the most urgent query that it leaves waiting. A service that does not join bounds
//     the round in the same way. Who cannot make it even now, or cannot wait for the quickest job of the most urgent
//     service, bounds nothing; nor does what stays waiting where there is too much to do (demand.h);
//   - within the horizon, half of the shortest target that a service has: what arrives meanwhile can make it in the
//     next round. A longer job is cut there, after one interval between cut points at least.
// A group that is predicted to take as long as its parts one after another is not formed.
//   packing "balanced": each other service joins with the batch and up to the cut at which the round is worth most per
//     time, if that is more than without it; looked at are its kJoiningWays best batches, with cuts about where its
//     range alone would take as long as the group, so that all end together. This is done for the kStartingWays best
//     batches of the most urgent service; the round that is worth most per time is taken.
//   packing "furthest" (as published): each other service joins with all that its best batch has left; the first that
//     joins only up to a cut, the furthest that fits, ends the round. Cuts are searched kSearchWays at a time.
//
// Work conserving: the plan is empty only if no idle service has work.
//
// No starvation. Due times do not move, and whoever arrives after a query was due is due later. Nor is a query passed
// over from then on: services with too much to do pass over only what could still make it. So each round begins with,
// or goes on with, a job of the most urgent service, which holds its most urgent query or was in progress before. A
// query that is due thus begins at the latest after as many rounds as there are then more urgent queries that wait and
// jobs in progress, each counted as often as the horizon cuts it; fewer, since a batch begins with many of them at
// once. A round takes at most as long as its ranges one after another. Where hopeless queries are answered without
// running ([scheduler] abandon), it begins or is answered by the time that it is due.
// tests/controller/schedule/headroom_bound_test.cc holds the policy to that bound.
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
