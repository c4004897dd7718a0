// GraphRuntime: any program on a GPU, as one CUDA graph per bucket, cut into executable slices.
//
// Load: every bucket, the largest first, is captured (graph_capture.h); then, when it is this process's turn, its cut
// points are measured (cut_timing.h), the slices of a binary tree over the intervals between cuts are instantiated
// (slice_tree.h, sliced_graph.h), and it is timed. What an earlier process measured is taken over, and without
// measuring every bucket is one whole (LoadHooks). A range is launched as a chain of slices. Nothing is instantiated
// while queries are served.
//
// Start enqueues all of a range on the one stream, in this order: wait for the gate, copy the job's inputs to the
// device (range [0, ..)), the slices, copy the outputs back (range [.., operators)), write the range's sequence number
// to page-locked memory of the host, which Poll reads (device_mailbox.h). Small rows are gathered in Start and
// scattered in Poll, through memory of the range's own (job_staging.h). On the device, stream order alone keeps two
// started ranges apart, also those of different jobs, whose copies write the same static inputs (bucket_memory.h). The
// stream is queried now and then, to notice errors.
//
// The GPU waits at the gate only when the arena is pinned: a copy from or to pageable memory may block the host until
// it was made, and then nobody would answer for the range whose end opens the gate.
//
// Thread rule, ownership and errors: as ModelRuntime. Any CUDA error after loading makes IsFatal() true. PinArena
// failing leaves the runtime usable, with slower copies.
#ifndef ABACUS_WORKER_CUDA_GRAPH_RUNTIME_H_
#define ABACUS_WORKER_CUDA_GRAPH_RUNTIME_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/cuda/cuda_driver.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/cuda/device_mailbox.h"
#include "worker/cuda/gpu_clock.h"
#include "worker/cuda/graph_capture.h"
#include "worker/cuda/job_staging.h"
#include "worker/cuda/pinned_memory.h"
#include "worker/cuts/slice_tree.h"
#include "worker/runtime/job_progress.h"
#include "worker/torch/model_program.h"
#include "worker/torch/torch_runtime.h"

namespace abacus {

class GraphRuntime : public TorchRuntime {
 public:
  // Captures every bucket, and measures it as `hooks` says. `program` lies on GPU `gpu`. `timestamps`: Poll says when
  // the GPU began and ended a range, for which it runs two more tiny kernels.
  static Result<std::unique_ptr<TorchRuntime>> Create(std::unique_ptr<ModelProgram> program, int gpu, bool timestamps,
                                                      const LoadHooks& hooks);

  const BucketRanges& ranges(uint32_t bucket) const override { return buckets_[bucket]->ranges; }
  std::string device_name() const override;
  std::string libraries() const override;
  std::string structure() const override { return program_->structure(); }
  Status Start(const RangeRequest& range) override;
  Result<std::optional<DeviceTimes>> Poll() override;
  ModelProgram& program() override { return *program_; }
  Status RunUncut(uint32_t bucket, const JobTensors& tensors) override;
  Status RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) override;
  Status PinArena(std::span<std::byte> arena) override;
  Status UseGate(GateWord* gate) override;
  bool IsFatal() const override { return !fatal_.ok(); }

 private:
  struct ReadyBucket {
    CapturedBucket captured;
    BucketRanges ranges;
    SliceTree tree;
    std::vector<UniqueCudaGraphExec> slices;  // of the tree

    Status Launch(uint32_t first, uint32_t last, cudaStream_t stream) const;
  };

  GraphRuntime(std::unique_ptr<ModelProgram> program, int gpu);

  Status Load(bool timestamps, const LoadHooks& hooks);
  // Captures it, and makes its slices unless it has to be measured first. Returns whether it is ready.
  Result<bool> PrepareBucket(uint32_t bucket, const LoadHooks& hooks);
  // Finds its cuts, makes its slices and times it.
  Status Measure(uint32_t bucket);
  Status MakeSlices(ReadyBucket& bucket);
  Status MeasureSolo(uint32_t bucket);
  Status CheckRange(const RangeRequest& range) const;
  Status Enqueue(const RangeRequest& range, uint32_t sequence);
  // What is left to do for a range that has ended on the device.
  void Finish(uint32_t sequence);
  // Runs `launch` (a callable returning Status) between the copies of a whole job, and waits for the stream to become
  // idle. Nothing may be started.
  template <class Launch>
  Status RunWhole(uint32_t bucket, const JobTensors& tensors, const Launch& launch);
  std::string BucketText(uint32_t bucket) const;
  std::string RangeText(uint32_t bucket, uint32_t first, uint32_t last) const;
  // Passes `status` on; an error leaves the runtime unusable.
  Status Fatal(const Status& status, const RangeRequest& range);

  const std::unique_ptr<ModelProgram> program_;
  JobStaging staging_;
  const CaptureSite site_;
  const cudaStream_t stream_;  // of the site
  const Result<StreamMemoryOps> memory_ops_;
  std::optional<GpuClock> clock_;
  DeviceMailbox mailbox_;
  std::vector<std::unique_ptr<ReadyBucket>> buckets_;
  uint64_t slicing_ns_ = 0;   // spent on slices while loading,
  int64_t slices_bytes_ = 0;  // and what they took of the GPU's memory
  UniquePinned pinned_arena_;
  PinnedGate gate_;
  Status fatal_;
  // Sequence numbers of the last range that was started and of the last that was polled to its end.
  uint32_t started_ = 0;
  uint32_t ended_ = 0;
  std::array<RangeRequest, kMaxStarted> started_ranges_;  // by sequence number, without tensors
  uint64_t queried_ns_ = 0;                               // when the stream was last asked for errors
  JobProgress progress_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_GRAPH_RUNTIME_H_
