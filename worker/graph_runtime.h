// GraphRuntime: one CUDA graph per bucket, cut into executable slices (see sliced_graph.h).
//
// Load: for each bucket, the largest first, static input tensors are made, the model runs a few times on the runtime's
// own stream, and one run is captured; the captured graph's outputs must agree with the last uncaptured run. The model
// runs in LibTorch's interpreter without profiling executor or run-time fusion, so that a graph is the same on every
// start. All buckets capture into one memory pool: only one job is in progress at a time, and a new job abandons the
// old one, so no bucket's intermediate values need to survive a run of another bucket. Static inputs and outputs are
// each bucket's own.
//
// Cut points: passes are run in up to kMaxPieces pieces with an event after each, and the fastest time of each piece
// over kCutPasses counts, so that other workers that load on the same GPU disturb little. Cuts are placed at equal
// shares of the sum. Pieces run in order: one without its prefix would read stale memory, and a stale index can fault
// the GPU.
//
// Slices: those of a binary tree over the intervals between cuts (see slice_tree.h) are instantiated at load; a range
// is launched as a chain of them. Nothing is instantiated while queries are
// served.
//
// Start enqueues all of a range on the one stream, in this order: wait for the gate, copy the job's inputs to the
// device (range [0, ..)), the slices, copy the outputs back (range [.., operators)), write the range's sequence number
// to page-locked memory of the host, which Poll reads. Stream order alone keeps two started ranges apart, also those of
// different jobs, whose copies write the same static inputs. The stream is queried now and then, to notice errors. A
// synthetic job makes the same copies from and to page-locked memory of the runtime, so it takes as long as a real one.
//
// The GPU waits at the gate only when the arena is pinned: a copy from or to pageable memory may block the host until
// it was made, and then nobody would answer for the range whose end opens the gate.
//
// Thread rule, ownership and errors: as ModelRuntime. Any CUDA error after loading makes IsFatal() true. PinArena
// failing leaves the runtime usable, with slower copies.
#ifndef ABACUS_WORKER_GRAPH_RUNTIME_H_
#define ABACUS_WORKER_GRAPH_RUNTIME_H_

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/cuda_driver.h"
#include "worker/cuda_raii.h"
#include "worker/gpu_clock.h"
#include "worker/model_loader.h"
#include "worker/slice_tree.h"
#include "worker/sliced_graph.h"
#include "worker/torch_runtime.h"

namespace abacus {

class GraphRuntime : public TorchRuntime {
 public:
  // Captures and measures every bucket. `model` lies on GPU `gpu`. `timestamps`: Poll says when the GPU began and ended
  // a range, for which it runs two more tiny kernels.
  static Result<std::unique_ptr<TorchRuntime>> Create(LoadedModel model, int gpu, bool timestamps,
                                                      const ProgressFn& progress);
  ~GraphRuntime() override;

  const BucketRanges& ranges(uint32_t bucket) const override { return buckets_[bucket].ranges; }
  std::string device_name() const override;
  std::string libraries() const override;
  Status Start(const RangeRequest& range) override;
  Result<std::optional<DeviceTimes>> Poll() override;
  Status RunUncut(uint32_t bucket, const JobTensors& tensors) override;
  Status RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) override;
  Status PinArena(std::span<std::byte> arena) override;
  Status UseGate(GateWord* gate) override;
  bool IsFatal() const override { return !fatal_.ok(); }

 private:
  struct CapturedBucket {
    // On the device; the captured graph reads and writes these addresses.
    std::vector<at::Tensor> inputs;
    std::vector<at::Tensor> outputs;
    // Page-locked host memory of synthetic jobs.
    std::vector<at::Tensor> sample;
    std::vector<at::Tensor> scratch;
    std::unique_ptr<at::cuda::CUDAGraph> graph;
    std::optional<SlicedGraph> sliced;
    BucketRanges ranges;
    SliceTree tree;
    std::vector<UniqueCudaGraphExec> slices;  // of the tree; while loading, only the whole
  };

  // What the GPU writes for the host to read, in page-locked memory.
  struct Mailbox {
    ShmAtomic<uint32_t> ended{0};  // sequence number of the last range that ended
    alignas(kCacheLineBytes) std::array<DeviceTimes, kMaxStarted> times{};  // by sequence number
  };

  GraphRuntime(LoadedModel model, int gpu);

  Status Load(bool timestamps, const ProgressFn& progress);
  Status MakeMailbox();
  Status Capture(uint32_t bucket);
  std::vector<at::Tensor> Forward(CapturedBucket& captured);
  Status CheckCapture(uint32_t bucket, const std::vector<at::Tensor>& expected);
  Status MeasureCuts(uint32_t bucket);
  Status MakeSlices(uint32_t bucket);
  Status MeasureSolo(uint32_t bucket);
  // Fastest time of each piece [positions[i], positions[i + 1]), the leaves of `tree`, over some passes.
  Result<std::vector<double>> PieceTimesMs(const CapturedBucket& captured, const SliceTree& tree,
                                           const std::vector<UniqueCudaGraphExec>& slices,
                                           const std::vector<uint32_t>& positions);

  Status CheckRange(const RangeRequest& range) const;
  Status Enqueue(const RangeRequest& range, uint32_t sequence);
  // Runs `launch` (a callable returning Status) between the copies of a whole job, and waits for the stream to become
  // idle. Nothing may be started.
  template <class Launch>
  Status RunWhole(uint32_t bucket, const JobTensors& tensors, const Launch& launch);
  Status CopyInputs(const CapturedBucket& captured, std::span<const std::byte* const> inputs);
  Status LaunchSlices(const CapturedBucket& captured, uint32_t first, uint32_t last);
  Status CopyOutputs(const CapturedBucket& captured, std::span<std::byte* const> outputs);
  // Whether all that was enqueued has ended.
  Result<bool> IsIdle() const;
  Status WaitIdle() const;
  std::string RangeText(uint32_t bucket, uint32_t first, uint32_t last) const;
  // Passes `status` on; an error leaves the runtime unusable.
  Status Fatal(const Status& status, const RangeRequest& range);

  const LoadedModel model_;
  const torch::jit::Code code_;
  const at::DeviceIndex gpu_;
  const c10::cuda::CUDAStream stream_;
  const c10::MempoolId_t pool_;
  const Result<StreamMemoryOps> memory_ops_;
  std::optional<GpuClock> clock_;
  UniqueCudaHost<Mailbox> mailbox_;
  Mailbox* device_mailbox_ = nullptr;  // the same memory at its address on the device
  std::vector<CapturedBucket> buckets_;
  std::span<std::byte> pinned_arena_;
  std::byte* pinned_gate_page_ = nullptr;
  const void* device_gate_ = nullptr;
  Status fatal_;
  // Sequence numbers of the last range that was started and of the last that was polled to its end.
  uint32_t started_ = 0;
  uint32_t ended_ = 0;
  std::array<RangeRequest, kMaxStarted> in_flight_;  // by sequence number, for messages
  uint64_t queried_ns_ = 0;                          // when the stream was last asked for errors
  // The job in progress: operators [0, next_) of it were started in job_bucket_. next_ == 0: none.
  uint32_t job_bucket_ = 0;
  uint32_t next_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_GRAPH_RUNTIME_H_
