// ModelRuntime: one loaded model that runs any operator range. The executor drives it; TorchScript on the CPU, sliced
// CUDA graphs on a GPU and the fake runtime of the tests implement it.
//
// Ranges are [first, last) in operators and start and end at cut points (ranges(bucket).cuts). The runtime keeps one
// job in progress: a range with first == 0 starts a job (and reads its inputs), one with last == operators ends it (and
// writes its outputs).
//
// What a runtime may rely on: the bucket exists, both ends are cut points, and a range with
// first > 0 continues the job in progress, in its bucket, where the range before it ended (JobProgress). The tensors
// fit: one entry for each of the spec, at the query's shape; rows >= 1, and together at most the bucket's batch;
// lengths within the bucket's. The executor guarantees all this whatever the controller sent. Loading, checks and
// tests call a runtime directly, so those that run real models refuse what breaks it, too.
//
// Start enqueues a range and Poll sees it complete, in order; at most kMaxStarted ranges are between the two. A runtime
// without a queue of its own runs the whole range inside Start. An error of either ends the job; of ranges that were
// started behind a failed one of the same job the results are worthless, but each is still polled for.
//
// Thread rule: one thread, the executor's. Errors: a Status whose message names model, bucket and range; after
// IsFatal() the process must exit (a sticky GPU error poisons its context), and Start fails at once. What was started
// before is still polled for: until it has ended or failed, its copies may write to the queries' memory.
#ifndef ABACUS_WORKER_RUNTIME_MODEL_RUNTIME_H_
#define ABACUS_WORKER_RUNTIME_MODEL_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "shm/doorbell.h"
#include "shm/layout.h"

namespace abacus {

// Cut points of one (model, bucket): cuts[0] = 0, cuts.back() = operators, ascending, at most kMaxCuts intervals.
struct BucketRanges {
  uint32_t operators = 0;
  std::vector<uint32_t> cuts;
  uint64_t solo_ns = 0;  // time of one whole pass, measured after warm-up and while nobody else used the device
};

// What loading a model asks and tells those who load it.
struct LoadHooks {
  // Called with what is being done ("optimise", "capture bucket 3 of 24") and with warnings; may be empty.
  std::function<void(std::string_view stage)> progress;
  // Called once, right before cut points and solo times are measured: returns when nobody else uses the device. May be
  // empty.
  std::function<void()> await_turn;
  // What an earlier process measured with the same model on the same device, by bucket; empty: nothing is known. A
  // bucket whose number of operators agrees is not measured again: its cut points and solo time are taken over.
  std::vector<BucketRanges> known;
  // False: nobody will look at cut points and solo times, so they need not be measured.
  bool measure = true;
};

// Tensors of one query, or of a part of its rows, at that shape, in the order of the spec. Those of a part need not be
// aligned to more than their elements.
struct QueryTensors {
  uint32_t rows = 0;
  uint32_t sequence = 0;  // 0: the model has no sequence dimension
  std::span<const std::byte* const> inputs;
  std::span<std::byte* const> outputs;
};

// The queries whose rows, one after another, make up the batch of a job; what is missing to the bucket's size along
// batch and sequence is padding (models/tensor_layout.h), which the runtime adds and removes. Empty for a synthetic
// job, which runs on the runtime's own stored input and writes nothing. The lists are read by Start only; the memory
// that they point to stays valid until the job ended or was replaced, and every range of it has been polled for.
using JobTensors = std::span<const QueryTensors>;

struct RangeRequest {
  uint32_t bucket = 0;
  uint32_t first = 0;
  uint32_t last = 0;
  JobTensors tensors;
  uint32_t gate = 0;  // begin once the gate has reached this value; 0: at once. Only after UseGate returned OK.
};

// When the device began and ended a range, on its own clock; 0 where it does not say.
struct DeviceTimes {
  uint64_t started_ns = 0;
  uint64_t ended_ns = 0;
};

class ModelRuntime {
 public:
  // Ranges that may be started and not yet polled to their end.
  static constexpr size_t kMaxStarted = 2;

  virtual ~ModelRuntime() = default;
  virtual const BucketRanges& ranges(uint32_t bucket) const = 0;
  // "NVIDIA H100 80GB HBM3"; with libraries(), what measured times depend on.
  virtual std::string device_name() const = 0;
  // "LibTorch 2.11.0, CUDA 13.0, cuDNN 9.19.0"
  virtual std::string libraries() const = 0;
  // Digest of operators, shapes and types without the weights, 64 hex digits: models of the same structure take the
  // same time. "": this runtime has none.
  virtual std::string structure() const { return {}; }

  // Starts operators [first, last). An error: it was not started and needs no Poll.
  virtual Status Start(const RangeRequest& range) = 0;
  // Nothing while the oldest started range still runs; else it has ended, or failed with the error.
  virtual Result<std::optional<DeviceTimes>> Poll() { return DeviceTimes{}; }

  // Makes the arena fast to copy from and to (page-locks it for a GPU). Called once, before the first Start.
  virtual Status PinArena(std::span<std::byte> /*arena*/) { return Status::Ok(); }
  // Lets ranges name the value of `gate` at which they may begin, so that they can be started before it is reached.
  // `gate` outlives the runtime. UNAVAILABLE: this runtime or device cannot wait by itself.
  virtual Status UseGate(GateWord* /*gate*/) {
    return {StatusCode::kUnavailable, "this kind of device runs a range as soon as it is started"};
  }
  // True once an error left the runtime unusable.
  virtual bool IsFatal() const { return false; }

  // Runs operators [first, last) to completion, with nothing else started. For loading, checks and tests.
  Status Run(uint32_t bucket, uint32_t first, uint32_t last, JobTensors tensors) {
    ABACUS_RETURN_IF_ERROR(Start({bucket, first, last, tensors}));
    for (;;) {
      const Result<std::optional<DeviceTimes>> ended = Poll();
      if (!ended) return ended.error();
      if (*ended) return Status::Ok();
      CpuRelax();
    }
  }
};

}  // namespace abacus

#endif  // ABACUS_WORKER_RUNTIME_MODEL_RUNTIME_H_
