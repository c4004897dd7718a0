// What passes between those who own the worker processes and those who give them work: the scheduler or the profiler.
#ifndef ABACUS_CONTROLLER_WORKERS_WORKER_EVENTS_H_
#define ABACUS_CONTROLLER_WORKERS_WORKER_EVENTS_H_

#include <cstdint>
#include <string>

#include "base/ids.h"

namespace abacus {

// One process: the slot that it holds and which of the slot's processes it is. News and orders about a process that is
// gone meanwhile do not reach its successor.
struct WorkerRef {
  WorkerId id;
  uint32_t generation = 0;
  friend bool operator==(const WorkerRef&, const WorkerRef&) = default;
};

// What is asked of whoever owns the worker processes. Called on the thread that gives work; must not block.
class WorkerControl {
 public:
  virtual ~WorkerControl() = default;
  // Whoever gave it work let go of a dead worker's slot: a new process may attach to it.
  virtual void SlotReleased(WorkerRef worker) = 0;
  // The worker broke its promises (hang, nonsense in its ring): end it.
  virtual void Condemn(WorkerRef worker, const std::string& why) = 0;
};

struct WorkerEvent {
  enum Kind : uint8_t {
    kUp,        // loaded and checked; may take commands
    kDown,      // the process is gone
    kGaveUp,    // will not be restarted for now: waiting queries get WORKER_FAILED with `message`
    kShutDown,  // the controller ends: waiting queries get SHUTTING_DOWN
  };
  Kind kind = kUp;
  WorkerRef worker;
  std::string message;
};

// Whoever gives the workers work. Called on any thread.
class WorkerListener {
 public:
  virtual ~WorkerListener() = default;
  virtual void Post(WorkerEvent event) = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_WORKER_EVENTS_H_
