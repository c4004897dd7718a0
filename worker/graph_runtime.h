// GraphRuntime: one CUDA graph per bucket, cut into executable slices (see sliced_graph.h).
//
// Load: for each bucket, the largest first, static input tensors are made, the model runs a few times on the runtime's
// own stream, and one run is captured; the captured graph's outputs must agree with the last uncaptured run. The model
// runs in LibTorch's interpreter without profiling executor or run-time fusion, so that a graph is the same on every
// start. All buckets capture into one memory pool: only one job is in progress at a time, and a new job abandons the
// old one, so no bucket's intermediate values need to survive a run of another bucket. Static inputs and outputs are
// each bucket's own.
//
// Cut points: prefixes [0, k) are timed on the GPU at up to kCandidates positions, the time of the nodes between two
// positions is taken to be equal, and cuts are placed at equal shares of the whole. Timing runs always start at
// operator 0: a slice without its prefix would read stale memory, and a stale index can fault the GPU.
//
// Run: range [0, ..) copies the job's inputs to the device, a range [.., operators) copies the outputs back, both on
// the same stream; completion is polled. A synthetic job makes the same copies from and to page-locked memory of the
// runtime, so it takes as long as a real one. The slice of a whole pass is made at load; any other is made when first
// run (1 to 3 ms) and kept in a bounded cache.
//
// Thread rule, ownership and errors: as ModelRuntime. Any CUDA error during Run makes IsFatal() true. PinArena failing
// leaves the runtime usable, with slower copies.
#ifndef ABACUS_WORKER_GRAPH_RUNTIME_H_
#define ABACUS_WORKER_GRAPH_RUNTIME_H_

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "worker/cuda_raii.h"
#include "worker/lru_cache.h"
#include "worker/model_loader.h"
#include "worker/sliced_graph.h"
#include "worker/torch_runtime.h"

namespace abacus {

class GraphRuntime : public TorchRuntime {
 public:
  // Captures and measures every bucket. `model` lies on GPU `gpu`; `graph_cache`: slices kept, over all buckets.
  static Result<std::unique_ptr<TorchRuntime>> Create(LoadedModel model, int gpu, size_t graph_cache,
                                                      const ProgressFn& progress);
  ~GraphRuntime() override;

  const BucketRanges& ranges(uint32_t bucket) const override { return buckets_[bucket].ranges; }
  Status Run(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) override;
  Status RunUncut(uint32_t bucket, const JobTensors& tensors) override;
  Status RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) override;
  Status PinArena(std::span<std::byte> arena) override;
  bool IsFatal() const override { return fatal_; }

 private:
  struct CapturedBucket {
    // On the device; the captured graph reads and writes these addresses.
    std::vector<at::Tensor> inputs;
    std::vector<at::Tensor> outputs;
    // Page-locked host memory of synthetic jobs.
    std::vector<at::Tensor> sample;
    std::vector<at::Tensor> scratch;
    std::unique_ptr<at::cuda::CUDAGraph> graph;
    std::optional<SlicedGraph> slices;
    UniqueCudaGraphExec whole;
    BucketRanges ranges;
  };

  GraphRuntime(LoadedModel model, int gpu, size_t graph_cache);

  Status Capture(uint32_t bucket);
  std::vector<at::Tensor> Forward(CapturedBucket& captured);
  Status CheckCapture(uint32_t bucket, const std::vector<at::Tensor>& expected);
  Status MeasureCuts(uint32_t bucket);
  Status MeasureSolo(uint32_t bucket);
  Result<double> PrefixTimeMs(const CapturedBucket& captured, cudaGraphExec_t exec, int repetitions);

  // Runs `launch` (a callable returning Status) between the copies of a range that `reads` inputs or `writes` outputs,
  // and waits for the stream to become idle.
  template <class Launch>
  Status RunOnStream(uint32_t bucket, bool reads, bool writes, const JobTensors& tensors, const Launch& launch);
  Status CopyInputs(const CapturedBucket& captured, std::span<const std::byte* const> inputs);
  Status CopyOutputs(const CapturedBucket& captured, std::span<std::byte* const> outputs);
  Status WaitIdle() const;
  Result<cudaGraphExec_t> ExecOf(uint32_t bucket, uint32_t first, uint32_t last);
  Status CheckJob(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) const;
  std::string RangeText(uint32_t bucket, uint32_t first, uint32_t last) const;
  // Passes `status` on; an error leaves the runtime unusable.
  Status Fatal(Status status, uint32_t bucket, uint32_t first, uint32_t last);

  const LoadedModel model_;
  const torch::jit::Code code_;
  const at::DeviceIndex gpu_;
  const c10::cuda::CUDAStream stream_;
  const c10::MempoolId_t pool_;
  std::vector<CapturedBucket> buckets_;
  LruCache<std::tuple<uint32_t, uint32_t, uint32_t>, UniqueCudaGraphExec> cache_;
  std::span<std::byte> pinned_arena_;
  bool fatal_ = false;
  // The job in progress: operators [0, next_) of it have run in job_bucket_. next_ == 0: none.
  uint32_t job_bucket_ = 0;
  uint32_t next_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_GRAPH_RUNTIME_H_
