// SchedulerLoop: takes admitted queries, asks the policy what to run, sends ranges to the workers and finishes queries.
//
// One iteration (DoWork) handles, in this order: completions, news about workers, new queries, overdue work, planning.
// It takes the time as an argument and touches the outside only through the segment's rings, the query channel and
// WorkerControl, so tests drive it with a manual clock and play the workers themselves.
//
// Rounds. For a policy in rounds, the ranges of a round start together and the next round starts when all of them have
// completed. It is planned `lead_us` before the running one is predicted to end and sent ahead: workers hold its ranges
// back until the gate opens (shm/gate.h), which is one store, made the moment the last completion of the running round
// is seen. A job whose range was sent is planned on as if that range had succeeded.
//
// Every query that enters through the channel leaves through it exactly once, with a terminal status:
//   completed                               OK
//   its deadline passed while it waited     DEADLINE_EXCEEDED     } only with `abandon`
//   it cannot make its deadline any more    DEADLINE_UNREACHABLE  }
//   the queue of its service is full        OVERLOADED
//   the worker died, failed or hung         WORKER_FAILED
//
// Thread rule: DoWork and Run from one thread. Post and InFlight may be called from any thread.
#ifndef ABACUS_CONTROLLER_SCHEDULER_LOOP_H_
#define ABACUS_CONTROLLER_SCHEDULER_LOOP_H_

#include <atomic>
#include <boost/container/static_vector.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "controller/adaptive_margin.h"
#include "controller/config.h"
#include "controller/job_queue.h"
#include "controller/policy.h"
#include "controller/query.h"
#include "controller/service_predictor.h"
#include "controller/trace_recorder.h"
#include "controller/worker_events.h"
#include "controller/worker_link.h"
#include "controller/worker_ranges.h"
#include "predictor/corrected_model.h"
#include "shm/clock.h"
#include "shm/doorbell.h"
#include "shm/gate.h"
#include "shm/region.h"

namespace abacus {

class SchedulerLoop : public WorkerListener {
 public:
  // `clock` is that of DoWork's `now_ns`, and never ahead of the next one.
  SchedulerLoop(const Config& config, Region* region, QueryTable* table, QueryChannel* channel,
                std::unique_ptr<Policy> policy, ServicePredictor predictor, WorkerControl* control,
                std::function<void()> wake_front_end, std::function<uint64_t()> clock = MonotonicNs);

  // One iteration at time `now_ns`. Returns how many events it handled.
  size_t DoWork(uint64_t now_ns);
  void Run(const std::atomic<bool>& stop);
  // How long to wait for news before something else is due.
  uint64_t IdleNs(uint64_t now_ns) const;

  void Post(WorkerEvent event) override;
  // Accepted queries that have no result yet.
  uint64_t InFlight() const { return in_flight_.load(std::memory_order_acquire); }
  // Any thread.
  const TraceRecorder& trace() const { return trace_; }

 private:
  struct Round {
    uint64_t number = 0;  // counts from 1; 0: there is none
    uint32_t gate = 0;
    uint32_t pending = 0;  // ranges sent and not completed
    uint32_t ranges = 0;
    bool disturbed = false;  // a range failed or a worker died: its time says nothing about the predictor
    uint64_t started_ns = 0;
    bool ahead = false;       // its commands were sent while the round before it ran
    uint64_t planned_ns = 0;  // when they were sent
    Prediction predicted;
    double margin = 0;           // a share
    uint64_t start_cost_ns = 0;  // expected beyond `predicted`: it began on an idle GPU
    uint64_t end_ns() const { return started_ns + start_cost_ns + predicted.ns; }
  };
  struct SentRange {
    Job* job = nullptr;
    uint64_t round = 0;
  };
  using Link = WorkerLink<SentRange>;
  struct Service {
    const ServiceConfig* config = nullptr;
    WorkerBlock* block = nullptr;
    Link link;
    std::vector<WorkerRanges> buckets;
    JobQueue queue;
    bool serving = false;
    bool refusing = false;  // answers its queries with `refusal` instead of queueing them
    StatusCode refusal = StatusCode::kWorkerFailed;
    uint64_t fatal_ns = 0;   // when it reported a fatal error, after which it exits by itself; 0: it has not
    bool condemned = false;  // asked the supervisor to end it; wait for kDown
    std::string why_down;
  };

  size_t HandleEvents(uint64_t now_ns);
  size_t HandleCompletions(uint64_t now_ns);
  size_t HandleSubmitted(uint64_t now_ns);
  size_t HandleOverdue(uint64_t now_ns);
  size_t PlanAndDispatch(uint64_t now_ns);
  size_t PlanRound(uint64_t now_ns);
  size_t PlanFree(uint64_t now_ns);

  void WorkerUp(uint32_t index);
  void WorkerDown(uint32_t index, const std::string& why, uint64_t now_ns);
  void RefuseWaiting(uint32_t index, StatusCode code, const std::string& why, uint64_t now_ns);
  bool PopCompletion(Service* service, uint64_t now_ns);
  void Condemn(Service* service, const std::string& why);
  void LearnBucket(Job* job);
  // The job ends with this error once none of its ranges is in flight; no more of it is planned.
  void Fail(Job* job, StatusCode code, const std::string& why);
  // The round's time will say nothing about the predictor.
  void Disturb(uint64_t round);
  // A range of the job ended, in whatever way.
  void RangeEnded(Job* job, const Link::Sent& sent, uint64_t now_ns);
  void EndRangeOfRound(uint64_t round, uint64_t now_ns);
  void StartRound(uint64_t now_ns);
  void RecordRound(const Round& round, uint64_t now_ns);
  // Corrects predictions by what the round took.
  void Learn(const Round& round, uint64_t actual_ns);
  // What the policy sees when its plan starts at `start_ns`. False: nothing that could run is waiting.
  bool TakeSnapshot(uint64_t start_ns, Snapshot* snapshot);
  // Answers those jobs of the plan that cannot make their deadline any more; true when there were some.
  bool AbandonHopeless(const Plan& plan, uint64_t start_ns, uint64_t now_ns);
  // True when the job was answered instead of kept: starting at `start_ns`, it cannot make its deadline.
  bool Abandon(Job* job, uint64_t start_ns, uint64_t now_ns);
  bool Dispatch(const Assignment& assignment, const Round& round, uint64_t now_ns);
  void FinishWaiting(Job* job, StatusCode code, const std::string& message, uint64_t now_ns);
  void FinishJob(Job* job, StatusCode code, const std::string& message, uint64_t now_ns);
  void FinishQuery(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns);
  Job* NewJob();

  const Config& config_;
  Region* const region_;
  QueryTable& table_;
  QueryChannel& channel_;
  const std::unique_ptr<Policy> policy_;
  WorkerControl* const control_;
  const std::function<void()> wake_front_end_;
  const std::function<uint64_t()> clock_;  // of `now_ns`
  Doorbell bell_;

  std::vector<Service> services_;
  std::vector<ServiceView> views_;  // scratch of PlanAndDispatch
  ServicePredictor predictor_;
  CorrectedModel latency_;  // predictor_'s model, corrected by the rounds so far
  AdaptiveMargin margin_;
  Gate gate_;
  Round running_;  // number 0: the GPU is idle
  Round next_;     // planned and sent ahead; number 0: not yet
  uint64_t rounds_ = 0;
  const uint64_t lead_ns_;
  TraceRecorder trace_;
  std::deque<Job> job_pool_;  // stable addresses
  std::vector<Job*> free_jobs_;
  uint64_t next_job_id_ = 1;
  uint64_t next_overdue_check_ns_ = 0;
  std::vector<uint32_t> finished_;  // in this iteration, handed over together
  std::atomic<uint64_t> in_flight_{0};

  std::mutex events_mutex_;
  std::vector<WorkerEvent> events_;  // protected by events_mutex_
  std::atomic<bool> has_events_{false};
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULER_LOOP_H_
