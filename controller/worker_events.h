// What passes between those who own the worker processes and those who give them work: the scheduler or the profiler.
#ifndef ABACUS_CONTROLLER_WORKER_EVENTS_H_
#define ABACUS_CONTROLLER_WORKER_EVENTS_H_

#include <cstdint>
#include <string>

namespace abacus {

// What is asked of whoever owns the worker processes. Called on the thread that gives work; must not block.
class WorkerControl {
 public:
  virtual ~WorkerControl() = default;
  // Whoever gave it work let go of a dead worker's block: a new process may attach to it.
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

// Whoever gives the workers work. Called on any thread.
class WorkerListener {
 public:
  virtual ~WorkerListener() = default;
  virtual void Post(WorkerEvent event) = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKER_EVENTS_H_
