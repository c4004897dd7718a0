// Rounds: the round that runs in a lane, the one that was sent ahead, and what rounds teach.
//
// Ranges of a round start together, and the next round starts when all of them have completed. A round is planned
// `lead_ns` before the running one is predicted to end; its commands name the gate value of the round, so that workers
// hold its ranges back (shm/gate.h). When the last completion of the running round arrives, the gate is opened first,
// which is one store, and everything else is done afterwards. Nothing was sent ahead when nothing was waiting then: the
// next round starts on an idle GPU, once its commands are sent.
//
// A round that was not disturbed moves the margin (adaptive_margin.h) and the correction of solo times
// (predictor/solo_correction.h). One that was not clearly wrong about any service, and was sent ahead in time, moves
// the correction of predictions, too (predictor/corrected_model.h).
//
// Thread rule: the scheduler's thread. Ownership: borrows lane block, recorder, base model and its solo correction.
#ifndef ABACUS_CONTROLLER_SCHEDULE_ROUNDS_H_
#define ABACUS_CONTROLLER_SCHEDULE_ROUNDS_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "controller/schedule/adaptive_margin.h"
#include "controller/trace/trace_recorder.h"
#include "predictor/corrected_model.h"
#include "predictor/solo_correction.h"
#include "shm/gate.h"
#include "shm/layout.h"

namespace abacus {

struct Round {
  // What it was chosen for: whose headroom bounded it, and the worth that it does per predicted time (Plan).
  struct Reason {
    uint64_t order = 0;  // WaitingQuery::order; 0: nobody's
    ServiceId service;
    uint64_t query = 0;  // its client's id
    float worth_per_time = 0;
  };

  uint64_t number = 0;  // counts from 1 in its lane; 0: there is none
  uint32_t gate = 0;
  uint32_t pending = 0;  // ranges sent and not completed
  uint32_t ranges = 0;
  bool disturbed = false;  // a range failed or a worker died: its time says nothing about the predictor
  uint64_t started_ns = 0;
  bool ahead = false;       // its commands were sent while the round before it ran
  uint64_t planned_ns = 0;  // when they were sent
  Prediction predicted;
  Reason reason;
  double margin = 0;           // a share
  uint64_t start_cost_ns = 0;  // expected beyond `predicted`: it began on an idle GPU
  // Its ranges, with the times that they took once they have ended.
  boost::container::static_vector<SoloCorrection::Part, kMaxGroup> parts;
  uint64_t end_ns() const { return started_ns + start_cost_ns + predicted.ns; }
};

class Rounds {
 public:
  // `settled`: whether no worker of the lane is loading; what rounds take meanwhile teaches nothing.
  Rounds(LaneId lane, LaneBlock* block, TraceRecorder* trace, const LatencyModel* base, SoloCorrection* solo,
         double start_margin, uint64_t lead_ns, std::function<bool()> settled);

  const CorrectedModel& latency() const { return latency_; }
  double margin() const { return margin_.share(); }
  // A query was refused because of what was predicted: so that this cannot go on for ever.
  void ForgetCorrection() { latency_.Forget(); }

  bool running() const { return running_.number != 0; }
  bool IsRunning(uint64_t number) const { return number != 0 && number == running_.number; }
  bool IsNext(uint64_t number) const { return number != 0 && number == next_.number; }
  uint64_t started_ns() const { return running_.started_ns; }
  // When the next round is to be planned; UINT64_MAX: it has been, or nothing runs.
  uint64_t PlanAtNs() const;
  // True when it is time to plan the next round.
  bool MayPlan(uint64_t now_ns) const;
  // When a round would start that is planned now, and the earliest time at which what waits can run.
  uint64_t StartNs(uint64_t now_ns) const;
  uint64_t EarliestStartNs(uint64_t now_ns) const;

  // A new round of this group. Its commands are to name Round::number and Round::gate.
  Round Plan(std::span<const OperatorRange> group, uint64_t now_ns);
  // The round was sent, `sent` of its ranges could be. On an idle lane it starts at once, at `clock()`: planning and
  // sending are not part of it.
  void Sent(Round round, uint32_t sent, size_t planned, const std::function<uint64_t()>& clock);

  // The time of round `number` will say nothing about the predictor.
  void Disturb(uint64_t number);
  // A range of it, of this service, ended, in whatever way.
  void RangeEnded(uint64_t number, ServiceId service, uint64_t now_ns);
  // A range that ran outside rounds, beside whatever else ran, took this long.
  void FreeRangeEnded(const OperatorRange& range, uint64_t took_ns);

 private:
  // Makes the next round the running one, if there is one.
  void Start(uint64_t now_ns);
  void Record(Round* round, uint64_t now_ns);
  // Corrects solo times and predictions by what the round took.
  void Learn(Round* round, uint64_t actual_ns);
  void Publish();

  const LaneId lane_;
  PredictorStats& stats_;
  TraceRecorder* const trace_;
  const uint64_t lead_ns_;
  const std::function<bool()> settled_;
  SoloCorrection* const solo_;
  CorrectedModel latency_;  // corrected by the rounds so far
  AdaptiveMargin margin_;
  Gate gate_;
  Round running_;  // number 0: the GPU is idle
  Round next_;     // sent ahead; number 0: not yet
  uint64_t count_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_ROUNDS_H_
