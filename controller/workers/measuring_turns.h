// MeasuringTurns: who may measure its solo times now. Times are only worth something while nobody else uses the device,
// so of the workers that load, one per device measures at a time, in the order in which they were ready for it, and
// only while none loads there: loading uses the device, too. A worker that loads for very long is not waited for.
//
// A turn ends when its worker has loaded or is gone. It has no time limit of its own: who measures has load_timeout_s
// for it, and is ended then.
//
// Thread rule: a plain value of one thread. Units: nanoseconds of the monotonic clock.
#ifndef ABACUS_CONTROLLER_WORKERS_MEASURING_TURNS_H_
#define ABACUS_CONTROLLER_WORKERS_MEASURING_TURNS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "controller/workers/worker_events.h"

namespace abacus {

class MeasuringTurns {
 public:
  static constexpr uint64_t kPatienceNs = 30 * kNsPerSecond;

  // A process that has not loaded yet.
  struct Loading {
    WorkerRef worker;
    size_t device = 0;   // those with the same number disturb each other
    bool ready = false;  // it has done everything but measuring
  };

  // `loading`: all such processes. Returns those whose turn begins now: one per device at most.
  std::vector<WorkerRef> Begin(std::span<const Loading> loading, uint64_t now_ns);

 private:
  struct Entry {
    WorkerRef worker;
    size_t device = 0;
    uint64_t since_ns = 0;   // it is ready
    bool measuring = false;  // its turn has begun
  };

  bool Measures(size_t device) const;
  bool AnyoneLoads(std::span<const Loading> loading, size_t device) const;

  std::vector<Entry> entries_;  // in the order in which they were ready
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_MEASURING_TURNS_H_
