// Lane: all that shares one GPU: its services with their queues and workers, its rounds, margin and predictor.
//
// Queries wait in the queue of their service. A plan of the policy takes some of them into jobs, late: when their
// ranges are sent. A job whose range was sent is planned on as if that range had succeeded; what ran in part goes on
// before anything else of its service. rounds.h says how rounds start and end, probe.h why a query that is predicted to
// be late may run all the same, backlog.h what becomes of queries that run in parts.
//
// How queries end (accounting.h gives the answers):
//   completed                               OK
//   its deadline passed while it waited     DEADLINE_EXCEEDED     } only with `abandon`; what was sent ahead of its
//   it cannot make its deadline any more    DEADLINE_UNREACHABLE  } round waits until the round starts
//   the queue of its service is full        OVERLOADED
//   the worker died, failed or hung         WORKER_FAILED
//   its client cancelled it                 CANCELLED
//
// Thread rule: the scheduler's thread. It touches the outside only through the segment's rings and WorkerControl.
// Ownership: borrows everything in Context, which must outlive it.
#ifndef ABACUS_CONTROLLER_SCHEDULE_LANE_H_
#define ABACUS_CONTROLLER_SCHEDULE_LANE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "controller/config/service_set.h"
#include "controller/intake/query_table.h"
#include "controller/schedule/accounting.h"
#include "controller/schedule/policy.h"
#include "controller/schedule/rounds.h"
#include "controller/schedule/service_predictor.h"
#include "controller/schedule/service_state.h"
#include "controller/trace/trace_recorder.h"
#include "controller/workers/worker_events.h"
#include "shm/region.h"

namespace abacus {

class Lane {
 public:
  // What lanes share.
  struct Context {
    SchedulerConfig config;
    uint64_t round_timeout_ns = 0;
    Region* region = nullptr;
    QueryTable* table = nullptr;
    const Policy* policy = nullptr;
    WorkerControl* control = nullptr;
    Accounting* accounting = nullptr;
    TraceRecorder* trace = nullptr;
    std::function<uint64_t()> clock;  // of `now_ns`, and never ahead of the next one
  };

  Lane(LaneId id, const Context* context, ServicePredictor predictor);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Takes a service in, or takes over its new settings.
  void SetService(const ServicePtr& service);

  // In the order of an iteration: what workers answered, news about them, new queries, overdue work, planning. Each
  // returns how many events it handled.
  size_t HandleCompletions(uint64_t now_ns);
  // False: the worker is none of this lane's.
  bool HandleEvent(const WorkerEvent& event, uint64_t now_ns);
  void Enqueue(uint32_t slot, uint64_t now_ns);
  // The client of a query that was taken in and is not answered does not want it any more.
  void Cancel(uint32_t slot, uint64_t now_ns);
  size_t HandleOverdue(uint64_t now_ns);
  size_t PlanAndDispatch(uint64_t now_ns);

  bool running_round() const { return rounds_.running(); }
  // When to plan again, whatever happens until then; UINT64_MAX: not before something does.
  uint64_t PlanAtNs() const { return std::min(rounds_.PlanAtNs(), wake_ns_); }

 private:
  void WorkerUp(ServiceState* state, uint32_t generation);
  void WorkerDown(ServiceState* state, const WorkerEvent& event, uint64_t now_ns);
  void Condemn(ServiceState* state, const std::string& why);
  // Looks for a hang, and refreshes what the status shows.
  void CheckWorker(ServiceState* state, uint64_t now_ns);
  bool PopCompletion(ServiceState* state, uint64_t now_ns);
  // When a range that was sent could begin: with its round, which may not have started.
  uint64_t BeganNs(const ServiceState::Link::Sent& sent, uint64_t now_ns) const;
  // A range ended, in whatever way; `began`: its round had started.
  void RangeEnded(ServiceState* state, const ServiceState::Link::Sent& sent, bool began, uint64_t now_ns);
  // The policy's plan for `start_ns`, after answering what it picked and cannot make its deadline any more. Empty:
  // nothing can run.
  Plan Next(uint64_t start_ns, uint64_t now_ns);
  // A probe (probe.h) that would run alone: up to the cut that leaves the lane's other services time for a query that
  // arrives meanwhile; the first one if none does.
  void ShortenProbe(Assignment* probe);
  // For the trace.
  Round::Reason ReasonOf(const Plan& plan) const;
  size_t PlanRound(uint64_t now_ns);
  size_t PlanFree(uint64_t now_ns);
  // Sends a range, and forms its job where it begins one. False: the worker takes no commands.
  bool Dispatch(const Assignment& assignment, const Round& round, uint64_t now_ns);
  ServiceState& Of(ServiceId service) const { return *by_id_[service.value()]; }

  const LaneId id_;
  const Context& context_;
  ServicePredictor predictor_;
  Rounds rounds_;
  JobPool jobs_;
  const Backlog::Tools tools_;
  std::deque<ServiceState> services_;  // stable addresses
  std::array<ServiceState*, kMaxServices> by_id_{};
  std::vector<ServiceView> views_;  // scratch of Next
  uint64_t wake_ns_ = UINT64_MAX;   // until when the policy waits on purpose
  uint64_t next_order_ = 1;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_LANE_H_
