// SchedulerLoop: the scheduler's thread. Takes admitted queries, drives the lanes, and hands answers back.
//
// One iteration (DoWork) handles, lane by lane and in this order: completions, news, new queries and cancellations,
// overdue work, planning. It takes the time as an argument and touches the outside only through the segment's rings,
// the query channel and WorkerControl, so tests drive it with a manual clock and play the workers themselves. What a
// lane does is in lane.h; how queries end, too.
//
// Every query that enters through the channel leaves through it exactly once, with a terminal status.
//
// Thread rule: DoWork and Run from one thread. Post, Publish and InFlight may be called from any thread.
#ifndef ABACUS_CONTROLLER_SCHEDULE_SCHEDULER_LOOP_H_
#define ABACUS_CONTROLLER_SCHEDULE_SCHEDULER_LOOP_H_

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/mailbox.h"
#include "controller/config/config.h"
#include "controller/config/service_set.h"
#include "controller/intake/query_table.h"
#include "controller/schedule/accounting.h"
#include "controller/schedule/lane.h"
#include "controller/schedule/policy.h"
#include "controller/schedule/service_predictor.h"
#include "controller/trace/trace_recorder.h"
#include "controller/workers/worker_events.h"
#include "shm/doorbell.h"
#include "shm/region.h"

namespace abacus {

class SchedulerLoop : public WorkerListener {
 public:
  // How it runs, and who is on its other ends.
  struct Setup {
    SchedulerConfig config;
    uint64_t round_timeout_ns = 0;
    std::unique_ptr<Policy> policy;
    std::vector<ServicePredictor> predictors;  // of each lane
    Region* region = nullptr;
    QueryTable* table = nullptr;
    QueryChannel* channel = nullptr;
    WorkerControl* control = nullptr;
    std::function<void()> wake_front_end;
    std::function<uint64_t()> clock = MonotonicNs;  // that of DoWork's `now_ns`, and never ahead of the next one
  };
  SchedulerLoop(Setup setup, const ServiceSetPtr& services);

  // One iteration at time `now_ns`. Returns how many events it handled.
  size_t DoWork(uint64_t now_ns);
  void Run(const std::atomic<bool>& stop);
  // How long to wait for news before something else is due.
  uint64_t IdleNs(uint64_t now_ns) const;

  void Post(WorkerEvent event) override;
  // The services from now on; what came before it in the mailbox still meets the old ones.
  void Publish(ServiceSetPtr services);
  // Accepted queries that have no answer yet.
  uint64_t InFlight() const { return accounting_.in_flight(); }
  // Any thread.
  const TraceRecorder& trace() const { return trace_; }

 private:
  using News = std::variant<WorkerEvent, ServiceSetPtr>;

  size_t HandleNews(uint64_t now_ns);
  size_t HandleSubmitted(uint64_t now_ns);
  size_t HandleOverdue(uint64_t now_ns);
  void TakeOver(const ServiceSet& services);
  bool AnyRoundRuns() const;

  const std::unique_ptr<Policy> policy_;
  Region* const region_;
  QueryTable& table_;
  QueryChannel& channel_;
  TraceRecorder trace_;
  Accounting accounting_;
  const Lane::Context context_;
  Doorbell bell_;
  std::deque<Lane> lanes_;  // by LaneId
  uint64_t next_overdue_check_ns_ = 0;
  Mailbox<News> news_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_SCHEDULER_LOOP_H_
