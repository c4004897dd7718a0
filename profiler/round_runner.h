// RoundRunner: runs rounds of chosen ranges on the workers and times them, the way the scheduler runs them: commands
// are sent ahead, the gate opens, the round ends with its last completion.
//
// It owns the workers for as long as it lives and restarts those that die. Workers run synthetic jobs (their stored
// input), with the same copies as real ones. Thread rule: the main thread. Errors: WORKER_FAILED when a worker died or
// failed during the round (AwaitWorkers before going on), UNAVAILABLE when a service stays down, TIMEOUT as
// WORKER_FAILED.
#ifndef ABACUS_PROFILER_ROUND_RUNNER_H_
#define ABACUS_PROFILER_ROUND_RUNNER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/mailbox.h"
#include "controller/config/service_set.h"
#include "controller/workers/worker_link.h"
#include "controller/workers/worker_supervisor.h"
#include "shm/gate.h"
#include "shm/region.h"

namespace abacus {

class RoundRunner : public WorkerListener {
 public:
  // `interrupt_fd`: a signalfd; waits end early with kShuttingDown when it is readable.
  // `spin`: waits awake, where cores are to spare.
  RoundRunner(const ServiceSetPtr& services, uint64_t round_timeout_ns, bool spin, Region* region,
              WorkerSupervisor* supervisor, int interrupt_fd);

  // Waits until all workers serve. `progress` is called now and then with what they do.
  Status AwaitWorkers(const std::function<void()>& progress);
  bool interrupted();

  // Operators [first, last) of a job of `service`. Ranges that start after 0 continue the job prepared before.
  struct Range {
    ServiceId service{};
    uint32_t bucket = 0;
    uint32_t first = 0;
    uint32_t last = 0;
  };
  // Runs what comes before each range as a round of its own, then the ranges; returns the time of the second round in
  // nanoseconds, from its gate's opening to its last completion.
  Result<uint64_t> Measure(std::span<const Range> ranges);

  void Post(WorkerEvent event) override;

 private:
  struct Worker {
    WorkerRef ref;
    std::string name;  // of its service
    WorkerLink<int> link;
    bool serving = false;
  };

  Status HandleEvents();
  Status Send(const Range& range, uint64_t job, uint32_t gate);
  // Has it ended; AwaitWorkers waits for its successor.
  void Condemn(Worker* worker, const std::string& why);
  // Waits for `count` completions.
  Status Await(size_t count);

  const uint64_t round_timeout_ns_;
  const bool spin_;
  Region* const region_;
  WorkerSupervisor* const supervisor_;
  const int interrupt_fd_;
  Gate gate_;
  Doorbell bell_;
  std::vector<Worker> workers_;  // by ServiceId
  uint64_t next_job_ = 1;

  Mailbox<WorkerEvent> events_;
};

}  // namespace abacus

#endif  // ABACUS_PROFILER_ROUND_RUNNER_H_
