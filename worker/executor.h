// Executor: the segmental executor of one worker process. It takes commands from the command ring, runs exactly the
// operator ranges they name, and answers each with one completion.
//
// Commands come from shared memory and are checked as a whole before anything runs: bucket, range (ends on cut points,
// continues where the job stopped), and that the job's block lies inside the arena. A bad command gets an error
// completion and changes nothing. One job is in progress at a time; a command with first == 0 of another job abandons
// the one before.
//
// Thread rule: one thread. Ownership: borrows region, spec and runtime. Units: nanoseconds of the monotonic clock.
#ifndef ABACUS_WORKER_EXECUTOR_H_
#define ABACUS_WORKER_EXECUTOR_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "models/model_spec.h"
#include "shm/doorbell.h"
#include "shm/region.h"
#include "worker/model_runtime.h"

namespace abacus {

class Executor {
 public:
  Executor(Region* region, size_t worker_index, const ModelSpec& spec, ModelRuntime* runtime);

  // Writes cut points and solo times where the controller reads them.
  void PublishRanges();

  // Handles commands until kStop, a fatal runtime error, or *stop. Spins `spin_ns` on an empty ring before it sleeps.
  // Returns OK for an ordered stop.
  Status Serve(const std::atomic<bool>& stop, uint64_t spin_ns);

  // One command, if there is one. Returns false when the ring was empty. For Serve and tests.
  bool DoWork();

 private:
  Status Validate(const Command& command) const;
  Status Run(const Command& command);
  void Answer(const Command& command, const Status& status, uint64_t started_ns);

  WorkerBlock& block_;
  SegmentHeader& header_;
  const std::span<std::byte> arena_;
  ModelRuntime* const runtime_;
  std::vector<BlockLayout> layouts_;  // by bucket
  Doorbell command_bell_;
  Doorbell controller_bell_;

  // The job in progress: valid while next_operator_ > 0.
  uint64_t job_id_ = 0;
  uint32_t job_bucket_ = 0;
  uint32_t next_operator_ = 0;

  std::vector<const std::byte*> inputs_;  // reused by every command
  std::vector<std::byte*> outputs_;
  bool stopped_ = false;
  Status fatal_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_EXECUTOR_H_
