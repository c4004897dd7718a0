// Probe: a service that only refuses lets one query through now and then.
//
// A query that is predicted to miss its target is answered DEADLINE_UNREACHABLE without running, and only what runs can
// show that the prediction was wrong (predictor/solo_correction.h). So once a service has refused for the interval, and
// has completed nothing meanwhile, the next query that it would refuse becomes its probe: it runs, and is answered OK,
// maybe late. There is one at a time. One that was late confirms the prediction: the interval doubles, up to
// kLongestNs. One in time, or any other query that completes, sets it back.
//
// What it costs others. A probe counts as due kPatienceNs after its deadline, so every policy that looks at deadlines
// runs more urgent queries first, and it cannot wait for ever. It never shares a job. Where it runs alone in a round,
// it runs in pieces that leave the other services of its lane the time that a query of theirs needs that arrives
// meanwhile (lane.h), one interval between cut points at least. A probe that has not run when it is due is answered
// DEADLINE_EXCEEDED.
//
// Thread rule: the scheduler's thread. Plain values.
#ifndef ABACUS_CONTROLLER_SCHEDULE_PROBE_H_
#define ABACUS_CONTROLLER_SCHEDULE_PROBE_H_

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace abacus {

class Probe {
 public:
  static constexpr uint64_t kFirstNs = kNsPerSecond;
  static constexpr uint64_t kLongestNs = 60 * kNsPerSecond;
  static constexpr uint64_t kPatienceNs = kNsPerSecond;

  // A query is to be refused because of what is predicted. True: it becomes the probe instead.
  bool MayRun(uint64_t now_ns) {
    if (refusing_since_ns_ == 0) refusing_since_ns_ = now_ns;
    if (out_ || now_ns - refusing_since_ns_ < interval_ns_) return false;
    out_ = true;
    return true;
  }
  // The probe was answered, in whatever way.
  void Ended(bool in_time, uint64_t now_ns) {
    out_ = false;
    refusing_since_ns_ = in_time ? 0 : now_ns;
    interval_ns_ = in_time ? kFirstNs : std::min(2 * interval_ns_, kLongestNs);
  }
  // It was taken back before it ran: nothing was learned.
  void Withdrawn() { out_ = false; }
  // Another query of the service ran to its end.
  void Completed() {
    refusing_since_ns_ = 0;
    interval_ns_ = kFirstNs;
  }

 private:
  uint64_t refusing_since_ns_ = 0;  // 0: it completed a query since, or never refused one
  uint64_t interval_ns_ = kFirstNs;
  bool out_ = false;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_PROBE_H_
