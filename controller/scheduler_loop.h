// SchedulerLoop: takes admitted queries, asks the policy what to run, sends ranges to the workers and finishes queries.
//
// One iteration (DoWork) handles, in this order: news about workers, completions, new queries, overdue work, planning.
// It takes the time as an argument and touches the outside only through the segment's rings, the query channel and
// WorkerControl, so tests drive it with a manual clock and play the workers themselves.
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
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "controller/config.h"
#include "controller/job_queue.h"
#include "controller/policy.h"
#include "controller/query.h"
#include "predictor/additive_model.h"
#include "shm/doorbell.h"
#include "shm/region.h"

namespace abacus {

// What the scheduler asks of whoever owns the worker processes. Called on the scheduler's thread; must not block.
class WorkerControl {
 public:
  virtual ~WorkerControl() = default;
  // The scheduler let go of a dead worker's block: a new process may attach to it.
  virtual void BlockReleased(uint32_t worker) = 0;
  // The worker broke its promises (hang, nonsense in its ring): end it.
  virtual void Condemn(uint32_t worker, const std::string& why) = 0;
};

struct WorkerEvent {
  enum Kind : uint8_t {
    kUp,        // loaded and checked; may take commands
    kDown,      // the process is gone
    kGaveUp,    // will not be restarted for now: waiting queries get WORKER_FAILED with `message`
    kShutDown,  // the controller ends: waiting queries get SHUTTING_DOWN
  };
  Kind kind = kUp;
  uint32_t worker = 0;
  std::string message;
};

class SchedulerLoop {
 public:
  SchedulerLoop(const Config& config, Region* region, QueryTable* table, QueryChannel* channel,
                std::unique_ptr<Policy> policy, WorkerControl* control, std::function<void()> wake_front_end);

  // One iteration at time `now_ns`. Returns how many events it handled.
  size_t DoWork(uint64_t now_ns);
  void Run(const std::atomic<bool>& stop);

  void Post(WorkerEvent event);
  // Accepted queries that have no result yet.
  uint64_t InFlight() const { return in_flight_.load(std::memory_order_acquire); }

 private:
  struct BucketTimes {
    uint32_t operators = 0;
    uint64_t solo_ns = 0;
  };
  struct Service {
    const ServiceConfig* config = nullptr;
    WorkerBlock* block = nullptr;
    std::vector<BucketTimes> buckets;  // checked copy of what the worker published
    JobQueue queue;
    bool serving = false;
    bool refusing = false;  // answers its queries with `refusal` instead of queueing them
    StatusCode refusal = StatusCode::kWorkerFailed;
    bool condemned = false;  // asked the supervisor to end it; wait for kDown
    std::string why_down;
    Job* running = nullptr;
    uint32_t running_first = 0;
    uint32_t running_last = 0;
    uint64_t sent_ns = 0;
  };

  size_t HandleEvents();
  size_t HandleCompletions(uint64_t now_ns);
  size_t HandleSubmitted(uint64_t now_ns);
  size_t HandleOverdue(uint64_t now_ns);
  size_t PlanAndDispatch(uint64_t now_ns);

  void WorkerUp(uint32_t index);
  void WorkerDown(uint32_t index, const std::string& why, uint64_t now_ns);
  void RefuseWaiting(uint32_t index, StatusCode code, const std::string& why, uint64_t now_ns);
  bool PopCompletion(Service* service, uint64_t now_ns);
  void Condemn(Service* service, const std::string& why);
  void LearnBucket(Job* job);
  // True when the job was answered instead of kept because it cannot make its deadline.
  bool Abandon(Job* job, uint64_t now_ns);
  bool Dispatch(const Assignment& assignment, uint64_t now_ns);
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
  Doorbell bell_;

  std::vector<Service> services_;
  std::vector<ServiceView> views_;  // scratch of PlanAndDispatch
  AdditiveModel additive_;
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
