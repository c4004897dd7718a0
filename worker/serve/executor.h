// Executor: the segmental executor of one worker process. It takes commands from the command ring, runs exactly the
// operator ranges they name, and answers each with one completion.
//
// Commands come from shared memory and are checked as a whole before anything runs: bucket, range (ends on cut points,
// continues where the job stopped), and the job's queries: every command carries the whole table, which is copied first
// and then checked (rows and lengths fit the bucket, and what the model lets share a batch, be padded or be split; each
// block lies inside the arena and holds its query's tensors, each part lies inside its query). A bad command gets an
// error completion and changes nothing. One job is in progress at a time; a command with first == 0 of another job
// abandons the one before.
//
// Gates: a command may come ahead of its round and then names the value at which its lane's gate lets it begin. Where
// the device itself can wait for the gate, the range is started at once, behind it and behind the range before: up to
// kMaxStarted ranges are pending, and nothing on the way from one round to the next waits for this process. Elsewhere
// one command is taken at a time and waits here. A range that fails takes those with it that continue it.
//
// Thread rule: one thread. Ownership: borrows region, spec and runtime; the slot's lane is one of the segment's (Serve
// checks that). Units: nanoseconds of the monotonic clock.
#ifndef ABACUS_WORKER_SERVE_EXECUTOR_H_
#define ABACUS_WORKER_SERVE_EXECUTOR_H_

#include <array>
#include <atomic>
#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "models/model_spec.h"
#include "shm/doorbell.h"
#include "shm/gate.h"
#include "shm/region.h"
#include "worker/runtime/job_progress.h"
#include "worker/runtime/model_runtime.h"

namespace abacus {

class Executor {
 public:
  Executor(Region* region, WorkerId worker, const ModelSpec& spec, ModelRuntime* runtime);

  // Writes cut points, solo times and what they were measured with and on where the controller, and the next worker of
  // this slot, read them. `digest`: of the model; "": the next worker takes nothing over.
  void PublishRanges(std::string_view digest = {});

  // From now on ranges wait for their gate on the device. An error: it cannot, and they wait here as before.
  Status HoldOnDevice();

  // Handles commands until kStop, a fatal runtime error, or *stop; what was started before then still completes.
  // Spins `spin_ns` on an empty ring, or a gate that is closed here, before it sleeps; polls while the device holds or
  // runs a range. Returns OK for an ordered stop.
  Status Serve(const std::atomic<bool>& stop, uint64_t spin_ns);

  // One step, without waiting for anything but a runtime whose Start runs the range: takes a command, starts what may
  // start, answers the oldest if it has ended. Returns false when there was nothing to do. For Serve and tests.
  bool DoWork();

 private:
  // A command that was taken and not yet answered.
  struct Pending {
    Command command;
    Status status;            // an error: decided, whatever the runtime says
    bool started = false;     // the runtime has it
    uint64_t started_ns = 0;  // 0: has not been seen to be the oldest with an open gate
  };

  bool IsOpen(const Command& command) const { return command.gate == 0 || gate_.Reached(command.gate); }
  bool TakeCommand();
  // Checks the whole command; its queries are then in queries_.
  Status Validate(const Command& command);
  // Copies the command's table out of shared memory, where it may change at any time.
  Status CopyQueries(const Command& command);
  // Checks the copy.
  Status ValidateQueries(const Bucket& bucket) const;
  Status ValidateQuery(const JobQuery& query, const Bucket& bucket) const;
  // Hands the newest command to the runtime, unless it has to wait for its gate here.
  void StartNewest();
  Status Start(const Command& command);
  // The tensors of queries_, of parts their rows alone, in tensors_.
  JobTensors BindTensors();
  bool AnswerOldest();
  void Answer(const Pending& ended, const DeviceTimes& times);
  // Fails what continues the job of `failed`, taken or yet to come.
  void EndJob(const Pending& failed);

  WorkerSlot& slot_;
  LaneBlock& lane_;
  const std::span<std::byte> arena_;
  const ModelSpec& spec_;
  const bool may_share_batch_;
  const bool may_be_split_;
  ModelRuntime* const runtime_;
  Doorbell command_bell_;
  Doorbell controller_bell_;
  const Gate gate_;
  bool holds_on_device_ = false;
  boost::container::static_vector<Pending, ModelRuntime::kMaxStarted> pending_;  // in the order of the command ring
  JobProgress progress_;  // up to the last range that was started

  // The newest command's; only that one can be waiting to be started. Reused by every command.
  std::array<JobQuery, kMaxJobQueries> queries_{};
  size_t query_count_ = 0;
  std::vector<const std::byte*> inputs_;  // query by query, in the order of the spec
  std::vector<std::byte*> outputs_;
  std::vector<QueryTensors> tensors_;

  bool stopped_ = false;
  Status fatal_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_SERVE_EXECUTOR_H_
