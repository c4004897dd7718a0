// ModelRuntime: one loaded model that runs any operator range. The executor drives it; TorchScript on the CPU, sliced
// CUDA graphs on a GPU and the fake runtime of the tests implement it.
//
// Ranges are [first, last) in operators and start and end at cut points (ranges(bucket).cuts). The runtime keeps one
// job in progress: Run with first == 0 starts a job (and reads its inputs), Run with last == operators ends it (and
// writes its outputs). The executor guarantees order: a range runs only after everything before it of the same job.
//
// Thread rule: one thread, the executor's. Errors: a Status whose message names model, bucket and range; after
// IsFatal() the process must exit (a sticky GPU error poisons its context).
#ifndef ABACUS_WORKER_MODEL_RUNTIME_H_
#define ABACUS_WORKER_MODEL_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "models/model_spec.h"
#include "shm/layout.h"
#include "shm/status.h"

namespace abacus {

// Cut points of one (model, bucket): cuts[0] = 0, cuts.back() = operators, ascending, at most kMaxCuts intervals.
struct BucketRanges {
  uint32_t operators = 0;
  std::vector<uint32_t> cuts;
  uint64_t solo_ns = 0;  // median time of one whole pass, measured alone after warm-up
};

// Tensors of a job, at bucket shape, in the order of the spec. Both lists are empty for a synthetic query, which runs
// on the runtime's own stored input and writes nothing. Pointers stay valid until the job ended or was replaced.
struct JobTensors {
  std::span<const std::byte* const> inputs;
  std::span<std::byte* const> outputs;
};

class ModelRuntime {
 public:
  virtual ~ModelRuntime() = default;
  virtual const BucketRanges& ranges(uint32_t bucket) const = 0;
  // Runs operators [first, last) to completion (the device is idle for this model when it returns).
  virtual Status Run(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) = 0;
  // Makes the arena fast to copy from and to (page-locks it for a GPU). Called once, before the first Run.
  virtual Status PinArena(std::span<std::byte> /*arena*/) { return Status::Ok(); }
  // True once an error left the runtime unusable.
  virtual bool IsFatal() const { return false; }
};

}  // namespace abacus

#endif  // ABACUS_WORKER_MODEL_RUNTIME_H_
