#include "worker/graph_runtime.h"

#include <ATen/Functions.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <utility>

#include "shm/clock.h"
#include "worker/cuda_module.h"
#include "worker/cut_points.h"

namespace abacus {
namespace {

constexpr int kWarmUpRuns = 3;
constexpr uint32_t kCandidates = 96;  // positions whose prefixes are timed: 1.5 for each interval
// A prefix of a pass shorter than kShortPassMs is timed several times and the fastest counts; noise matters less in a
// longer one. Timing takes about 0.5 s a bucket.
constexpr double kShortPassMs = 3;
constexpr int kShortPassRepetitions = 3;
constexpr int kSoloPasses = 15;

Result<UniqueCudaEvent> MakeEvent() {
  cudaEvent_t event = nullptr;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaEventCreate(&event));
  return UniqueCudaEvent(event);
}

// Ends a capture that failed half way. LibTorch's capture_end throws before it tells the allocators, which would then
// refuse to free memory for as long as the process lives.
void AbandonCapture(at::cuda::CUDAGraph& graph, at::DeviceIndex gpu, c10::MempoolId_t pool) {
  try {
    graph.capture_end();
    return;
  } catch (const std::exception&) {
    (void)cudaGetLastError();
  }
  try {
    c10::cuda::CUDACachingAllocator::endAllocateToPool(gpu, pool);
    at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
  } catch (const std::exception&) {  // the capture had not come that far
  }
}

at::Tensor PinnedEmpty(const TensorPlan& plan) {
  return at::empty(plan.sizes, at::TensorOptions(plan.dtype).pinned_memory(true));
}

}  // namespace

Result<std::unique_ptr<TorchRuntime>> GraphRuntime::Create(LoadedModel model, int gpu, size_t graph_cache,
                                                           const ProgressFn& progress) {
  const std::string name = model.name;
  try {
    const c10::cuda::CUDAGuard guard(static_cast<at::DeviceIndex>(gpu));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());  // the weights were copied on another stream
    std::unique_ptr<GraphRuntime> runtime(new GraphRuntime(std::move(model), gpu, graph_cache));
    const auto buckets = static_cast<uint32_t>(runtime->buckets_.size());
    for (uint32_t i = 0; i < buckets; ++i) {
      const uint32_t b = buckets - 1 - i;
      if (progress) progress(c10::str("capture bucket ", i + 1, " of ", buckets));
      Status status = runtime->Capture(b);
      if (status.ok()) status = runtime->MeasureCuts(b);
      if (status.ok()) status = runtime->MeasureSolo(b);
      if (!status.ok()) {
        return Error(status.WithContext(
            c10::str("model \"", name, "\", bucket ", b, " (", runtime->model_.buckets[b].label, ")")));
      }
    }
    c10::cuda::CUDACachingAllocator::emptyCache();  // gives back what only the uncaptured runs needed
    return runtime;
  } catch (const std::exception& error) {
    return Error(StatusCode::kWorkerFailed, c10::str("model \"", name, "\" on GPU ", gpu, ": ", ErrorText(error)));
  }
}

GraphRuntime::GraphRuntime(LoadedModel model, int gpu, size_t graph_cache)
    : model_(std::move(model)),
      code_(model_.graph, "forward"),
      gpu_(static_cast<at::DeviceIndex>(gpu)),
      stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, gpu_)),
      pool_(at::cuda::graph_pool_handle()),
      buckets_(model_.buckets.size()),
      cache_(graph_cache) {}

GraphRuntime::~GraphRuntime() {
  if (!pinned_arena_.empty()) (void)cudaHostUnregister(pinned_arena_.data());
}

// --- Load ----------------------------------------------------------------------------------------------------------

Status GraphRuntime::Capture(uint32_t bucket) {
  const c10::InferenceMode inference;
  const c10::cuda::CUDAStreamGuard on_stream(stream_);
  const BucketPlan& plan = model_.buckets[bucket];
  CapturedBucket& captured = buckets_[bucket];
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    captured.sample.push_back(PinnedEmpty(plan.inputs[i]).copy_(plan.sample[i]));
    captured.inputs.push_back(
        at::empty(plan.inputs[i].sizes, at::TensorOptions(plan.inputs[i].dtype).device(at::Device(at::kCUDA, gpu_))));
  }
  for (const TensorPlan& output : plan.outputs) captured.scratch.push_back(PinnedEmpty(output));

  std::vector<at::Tensor> expected;
  for (int run = 0; run < kWarmUpRuns; ++run) {
    ABACUS_RETURN_IF_ERROR(CopyInputs(captured, {}));
    expected = Forward(captured);
  }
  for (at::Tensor& output : expected) output = output.clone();
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, expected));
  ABACUS_RETURN_IF_ERROR(WaitIdle());

  captured.graph = std::make_unique<at::cuda::CUDAGraph>(/*keep_graph=*/true);
  // Thread-local: calls of other threads of the process cannot break the capture.
  captured.graph->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
  try {
    captured.outputs = Forward(captured);
  } catch (const std::exception& error) {
    AbandonCapture(*captured.graph, gpu_, pool_);
    return {StatusCode::kInvalidArgument,
            c10::str("cannot capture the model in a CUDA graph (does forward() read values back to the CPU?): ",
                     ErrorText(error))};
  }
  captured.graph->capture_end();

  Result<SlicedGraph> slices = SlicedGraph::Create(captured.graph->raw_cuda_graph());
  if (!slices) return slices.error();
  captured.slices.emplace(std::move(*slices));
  captured.ranges.operators = captured.slices->operators();
  Result<UniqueCudaGraphExec> whole = captured.slices->Instantiate(0, captured.ranges.operators, stream_.stream());
  if (!whole) return whole.error();
  captured.whole = std::move(*whole);
  return CheckCapture(bucket, expected);
}

std::vector<at::Tensor> GraphRuntime::Forward(CapturedBucket& captured) {
  torch::jit::Stack stack = {model_.module._ivalue()};
  for (const at::Tensor& input : captured.inputs) stack.emplace_back(input);
  torch::jit::InterpreterState(code_).run(stack);
  Result<std::vector<at::Tensor>> outputs = FlattenOutputs(stack.at(0));
  TORCH_CHECK(outputs.has_value(), outputs.error().message());
  for (at::Tensor& output : *outputs) {
    TORCH_CHECK(output.is_cuda(), "forward() returns a tensor on the CPU");
    output = output.contiguous();
  }
  return std::move(*outputs);
}

Status GraphRuntime::CheckCapture(uint32_t bucket, const std::vector<at::Tensor>& expected) {
  const CapturedBucket& captured = buckets_[bucket];
  const BucketPlan& plan = model_.buckets[bucket];
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, captured.outputs));
  ABACUS_RETURN_IF_ERROR(CopyInputs(captured, {}));
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(captured.whole.get(), stream_.stream()));
  ABACUS_RETURN_IF_ERROR(WaitIdle());
  const Result<double> difference = CompareOutputs(plan, expected, captured.outputs, model_.tolerance);
  return difference ? Status::Ok() : difference.error().WithContext("the captured graph against the uncaptured run");
}

Status GraphRuntime::MeasureCuts(uint32_t bucket) {
  CapturedBucket& captured = buckets_[bucket];
  const uint32_t operators = captured.ranges.operators;
  const Result<double> pass_ms = PrefixTimeMs(captured, captured.whole.get(), kShortPassRepetitions);
  if (!pass_ms) return pass_ms.error();
  const int repetitions = *pass_ms < kShortPassMs ? kShortPassRepetitions : 1;

  const uint32_t candidates = std::min(operators, kCandidates);
  std::vector<uint32_t> positions = {0};
  std::vector<double> times_ms = {0};
  for (uint32_t i = 1; i < candidates; ++i) {
    const auto position = static_cast<uint32_t>(static_cast<uint64_t>(operators) * i / candidates);
    const Result<UniqueCudaGraphExec> prefix = captured.slices->Instantiate(0, position, stream_.stream());
    if (!prefix) return prefix.error();
    const Result<double> time_ms = PrefixTimeMs(captured, prefix->get(), repetitions);
    if (!time_ms) return time_ms.error();
    positions.push_back(position);
    times_ms.push_back(*time_ms);
  }
  positions.push_back(operators);
  times_ms.push_back(*pass_ms);
  // Every measured time holds the cost of launching a graph at all. Counting the first piece as long as the second
  // keeps it out of the first interval.
  if (times_ms.size() > 2) times_ms[0] = std::clamp(2 * times_ms[1] - times_ms[2], 0.0, times_ms[1]);
  captured.ranges.cuts = ChooseCuts(InterpolateCumulative(positions, times_ms), kMaxCuts);
  return Status::Ok();
}

Result<double> GraphRuntime::PrefixTimeMs(const CapturedBucket& captured, cudaGraphExec_t exec, int repetitions) {
  const Result<UniqueCudaEvent> start = MakeEvent();
  if (!start) return Error(start.error());
  const Result<UniqueCudaEvent> stop = MakeEvent();
  if (!stop) return Error(stop.error());
  double fastest_ms = std::numeric_limits<double>::max();
  for (int i = 0; i < repetitions; ++i) {
    ABACUS_RETURN_IF_ERROR(CopyInputs(captured, {}));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaEventRecord(start->get(), stream_.stream()));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(exec, stream_.stream()));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaEventRecord(stop->get(), stream_.stream()));
    ABACUS_RETURN_IF_ERROR(WaitIdle());
    float elapsed_ms = 0;
    ABACUS_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&elapsed_ms, start->get(), stop->get()));
    fastest_ms = std::min(fastest_ms, static_cast<double>(elapsed_ms));
  }
  return fastest_ms;
}

Status GraphRuntime::MeasureSolo(uint32_t bucket) {
  BucketRanges& ranges = buckets_[bucket].ranges;
  std::vector<uint64_t> passes_ns;
  for (int pass = 0; pass < kSoloPasses; ++pass) {
    const uint64_t start_ns = MonotonicNs();
    ABACUS_RETURN_IF_ERROR(Run(bucket, 0, ranges.operators, {}));
    passes_ns.push_back(MonotonicNs() - start_ns);
  }
  const auto middle = passes_ns.begin() + kSoloPasses / 2;
  std::nth_element(passes_ns.begin(), middle, passes_ns.end());
  ranges.solo_ns = *middle;
  return Status::Ok();
}

// --- Run -----------------------------------------------------------------------------------------------------------

Status GraphRuntime::Run(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) {
  ABACUS_RETURN_IF_ERROR(CheckJob(bucket, first, last, tensors));
  next_ = 0;
  const uint32_t operators = buckets_[bucket].ranges.operators;
  const Status status = RunOnStream(bucket, first == 0, last == operators, tensors, [&]() -> Status {
    const Result<cudaGraphExec_t> exec = ExecOf(bucket, first, last);
    if (!exec) return exec.error();
    return CudaStatus(cudaGraphLaunch(*exec, stream_.stream()), "cudaGraphLaunch");
  });
  if (!status.ok()) return Fatal(status, bucket, first, last);
  job_bucket_ = bucket;
  next_ = last == operators ? 0 : last;
  return Status::Ok();
}

Status GraphRuntime::RunUncut(uint32_t bucket, const JobTensors& tensors) {
  const uint32_t operators = buckets_[bucket].ranges.operators;
  ABACUS_RETURN_IF_ERROR(CheckJob(bucket, 0, operators, tensors));
  next_ = 0;
  const Status status = RunOnStream(bucket, /*reads=*/true, /*writes=*/true, tensors, [&]() -> Status {
    const c10::InferenceMode inference;  // as at capture: LibTorch keeps tensors of the capture up to date
    const c10::cuda::CUDAStreamGuard on_stream(stream_);
    buckets_[bucket].graph->replay();
    return Status::Ok();
  });
  return status.ok() ? status : Fatal(status, bucket, 0, operators);
}

Status GraphRuntime::RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) {
  ABACUS_RETURN_IF_ERROR(CheckJob(bucket, 0, chain.back(), tensors));
  next_ = 0;
  const Status status = RunOnStream(bucket, /*reads=*/true, /*writes=*/true, tensors, [&]() -> Status {
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      const Result<cudaGraphExec_t> exec = ExecOf(bucket, chain[i], chain[i + 1]);
      if (!exec) return exec.error();
      ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(*exec, stream_.stream()));
    }
    return Status::Ok();
  });
  return status.ok() ? status : Fatal(status, bucket, 0, chain.back());
}

template <class Launch>
Status GraphRuntime::RunOnStream(uint32_t bucket, bool reads, bool writes, const JobTensors& tensors,
                                 const Launch& launch) {
  const CapturedBucket& captured = buckets_[bucket];
  try {
    const c10::cuda::CUDAGuard guard(gpu_);
    if (reads) ABACUS_RETURN_IF_ERROR(CopyInputs(captured, tensors.inputs));
    ABACUS_RETURN_IF_ERROR(launch());
    if (writes) ABACUS_RETURN_IF_ERROR(CopyOutputs(captured, tensors.outputs));
    return WaitIdle();
  } catch (const std::exception& error) {
    return {StatusCode::kWorkerFailed, ErrorText(error)};
  }
}

Status GraphRuntime::CopyInputs(const CapturedBucket& captured, std::span<const std::byte* const> inputs) {
  for (size_t i = 0; i < captured.inputs.size(); ++i) {
    const at::Tensor& target = captured.inputs[i];
    const void* source = inputs.empty() ? captured.sample[i].const_data_ptr() : inputs[i];
    ABACUS_RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(target.data_ptr(), source, target.nbytes(), cudaMemcpyHostToDevice, stream_.stream()));
  }
  return Status::Ok();
}

Status GraphRuntime::CopyOutputs(const CapturedBucket& captured, std::span<std::byte* const> outputs) {
  for (size_t i = 0; i < captured.outputs.size(); ++i) {
    const at::Tensor& source = captured.outputs[i];
    void* target = outputs.empty() ? captured.scratch[i].data_ptr() : outputs[i];
    ABACUS_RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(target, source.const_data_ptr(), source.nbytes(), cudaMemcpyDeviceToHost, stream_.stream()));
  }
  return Status::Ok();
}

// Polls: a blocking wait would add the wake-up of a thread to every range.
Status GraphRuntime::WaitIdle() const {
  cudaError_t error = cudaStreamQuery(stream_.stream());
  if (error == cudaErrorNotReady) {
    while (error == cudaErrorNotReady) error = cudaStreamQuery(stream_.stream());
    (void)cudaGetLastError();  // "not ready" must not show up in LibTorch's next check of the last error
  }
  return CudaStatus(error, "waiting for the GPU");
}

Result<cudaGraphExec_t> GraphRuntime::ExecOf(uint32_t bucket, uint32_t first, uint32_t last) {
  const CapturedBucket& captured = buckets_[bucket];
  if (first == 0 && last == captured.ranges.operators) return captured.whole.get();
  const auto key = std::make_tuple(bucket, first, last);
  if (const UniqueCudaGraphExec* found = cache_.Find(key)) return found->get();
  Result<UniqueCudaGraphExec> exec = captured.slices->Instantiate(first, last, stream_.stream());
  if (!exec) return Error(exec.error());
  return cache_.Insert(key, std::move(*exec))->get();
}

Status GraphRuntime::CheckJob(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) const {
  if (fatal_) {
    return {StatusCode::kWorkerFailed, RangeText(bucket, first, last) + ": refused after an earlier CUDA error"};
  }
  if (first != 0 && (first != next_ || bucket != job_bucket_)) {
    return {StatusCode::kInternal, RangeText(bucket, first, last) + ": does not continue the job in progress"};
  }
  const Status status = CheckTensorCount(model_.buckets[bucket], tensors.inputs.size(), tensors.outputs.size());
  return status.ok() ? status : status.WithContext(RangeText(bucket, first, last));
}

std::string GraphRuntime::RangeText(uint32_t bucket, uint32_t first, uint32_t last) const {
  return c10::str("model \"", model_.name, "\", bucket ", bucket, " (", model_.buckets[bucket].label, "), operators [",
                  first, ", ", last, ") on GPU ", static_cast<int>(gpu_));
}

Status GraphRuntime::Fatal(Status status, uint32_t bucket, uint32_t first, uint32_t last) {
  fatal_ = true;
  return status.WithContext(RangeText(bucket, first, last));
}

Status GraphRuntime::PinArena(std::span<std::byte> arena) {
  const cudaError_t error = cudaHostRegister(arena.data(), arena.size(), cudaHostRegisterDefault);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return CudaStatus(error, c10::str("cudaHostRegister of ", arena.size(), " bytes of shared memory"));
  }
  pinned_arena_ = arena;
  return Status::Ok();
}

}  // namespace abacus

// --- Module --------------------------------------------------------------------------------------------------------

namespace {

abacus::Status UseGpu(int gpu) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    return {abacus::StatusCode::kUnavailable,
            "cannot use a GPU: " + abacus::CudaStatus(error, "cudaGetDeviceCount").message()};
  }
  if (gpu < 0 || gpu >= count) {
    return {abacus::StatusCode::kUnavailable,
            c10::str("GPU ", gpu, " does not exist: the process sees ", count, " (see CUDA_VISIBLE_DEVICES)")};
  }
  const abacus::Status status = abacus::CudaStatus(cudaSetDevice(gpu), c10::str("cudaSetDevice(", gpu, ")"));
  return status.ok() ? status : abacus::Status(abacus::StatusCode::kUnavailable, status.message());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const abacus::CudaModule* AbacusCudaModule() {
  static constexpr abacus::CudaModule kModule = {&UseGpu, &abacus::GraphRuntime::Create};
  return &kModule;
}
