#include "worker/graph_runtime.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/StringUtil.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <utility>

#include "shm/clock.h"
#include "worker/cuda_module.h"
#include "worker/cut_points.h"

namespace abacus {
namespace {

constexpr int kWarmUpRuns = 3;
constexpr uint32_t kMaxPieces = 256;  // parts of a pass that are timed to place the cuts
constexpr int kCutPasses = 7;
constexpr int kSoloPasses = 15;
constexpr uint64_t kQueryIntervalNs = 50'000;  // between looks at the stream for errors
constexpr uintptr_t kPageBytes = 4096;

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

// Of the GPU's memory, over all processes.
int64_t FreeBytes() {
  size_t free_bytes = 0, total_bytes = 0;
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  return static_cast<int64_t>(free_bytes);
}

at::Tensor PinnedEmpty(const TensorPlan& plan) {
  return at::empty(plan.sizes, at::TensorOptions(plan.dtype).pinned_memory(true));
}

}  // namespace

Result<std::unique_ptr<TorchRuntime>> GraphRuntime::Create(LoadedModel model, int gpu, bool timestamps,
                                                           const ProgressFn& progress) {
  const std::string name = model.name;
  try {
    const c10::cuda::CUDAGuard guard(static_cast<at::DeviceIndex>(gpu));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());  // the weights were copied on another stream
    std::unique_ptr<GraphRuntime> runtime(new GraphRuntime(std::move(model), gpu));
    if (const Status status = runtime->Load(timestamps, progress ? progress : ProgressFn([](std::string_view) {}));
        !status.ok()) {
      return Error(status.WithContext(c10::str("model \"", name, "\"")));
    }
    c10::cuda::CUDACachingAllocator::emptyCache();  // gives back what only the uncaptured runs needed
    return runtime;
  } catch (const std::exception& error) {
    return Error(StatusCode::kWorkerFailed, c10::str("model \"", name, "\" on GPU ", gpu, ": ", ErrorText(error)));
  }
}

GraphRuntime::GraphRuntime(LoadedModel model, int gpu)
    : model_(std::move(model)),
      code_(model_.graph, "forward"),
      gpu_(static_cast<at::DeviceIndex>(gpu)),
      stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, gpu_)),
      pool_(at::cuda::graph_pool_handle()),
      memory_ops_(StreamMemoryOps::Find()),
      buckets_(model_.buckets.size()) {}

GraphRuntime::~GraphRuntime() {
  if (pinned_gate_page_ != nullptr) (void)cudaHostUnregister(pinned_gate_page_);
  if (!pinned_arena_.empty()) (void)cudaHostUnregister(pinned_arena_.data());
}

std::string GraphRuntime::device_name() const {
  cudaDeviceProp properties{};
  const cudaError_t error = cudaGetDeviceProperties(&properties, gpu_);
  return error == cudaSuccess ? properties.name : c10::str("GPU ", static_cast<int>(gpu_));
}

std::string GraphRuntime::libraries() const {
  int cuda = 0;  // 1000 * major + 10 * minor
  (void)cudaRuntimeGetVersion(&cuda);
  std::string libraries = c10::str("LibTorch ", TORCH_VERSION, ", CUDA ", cuda / 1000, ".", cuda % 1000 / 10);
  if (at::globalContext().hasCuDNN()) {
    const auto cudnn = at::Context::versionRuntimeCuDNN();  // 10000 * major + 100 * minor + patch
    libraries += c10::str(", cuDNN ", cudnn / 10000, ".", cudnn % 10000 / 100, ".", cudnn % 100);
  }
  return libraries;
}

// --- Load ----------------------------------------------------------------------------------------------------------

Status GraphRuntime::Load(bool timestamps, const ProgressFn& progress) {
  ABACUS_RETURN_IF_ERROR(MakeMailbox());
  if (timestamps) {
    if (const Result<GpuClock> clock = GpuClock::Create()) {
      clock_ = *clock;
    } else {
      progress("runs without GPU timestamps: " + clock.error().message());
    }
  }
  const auto buckets = static_cast<uint32_t>(buckets_.size());
  size_t slices = 0;
  uint64_t slicing_ns = 0;
  int64_t slices_bytes = 0;
  for (uint32_t i = 0; i < buckets; ++i) {
    const uint32_t b = buckets - 1 - i;
    progress(c10::str("capture bucket ", i + 1, " of ", buckets));
    Status status = Capture(b);
    if (status.ok()) status = MeasureCuts(b);
    const uint64_t begin_ns = MonotonicNs();
    const int64_t free_bytes = FreeBytes();
    if (status.ok()) status = MakeSlices(b);
    slices += buckets_[b].slices.size();
    slicing_ns += MonotonicNs() - begin_ns;
    slices_bytes += free_bytes - FreeBytes();
    if (status.ok()) status = MeasureSolo(b);
    if (!status.ok()) return status.WithContext(c10::str("bucket ", b, " (", model_.buckets[b].label, ")"));
  }
  progress(c10::str("made ", slices, " slices in ", slicing_ns / kNsPerMs,
                    " ms; they, and whatever else started on this ", "GPU meanwhile, take ", slices_bytes >> 20,
                    " MiB"));
  return Status::Ok();
}

Status GraphRuntime::MakeMailbox() {
  void* memory = nullptr;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaHostAlloc(&memory, sizeof(Mailbox), cudaHostAllocMapped));
  mailbox_.reset(new (memory) Mailbox);
  void* address = nullptr;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaHostGetDevicePointer(&address, memory, /*flags=*/0));
  device_mailbox_ = static_cast<Mailbox*>(address);
  return Status::Ok();
}

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

  Result<SlicedGraph> sliced = SlicedGraph::Create(captured.graph->raw_cuda_graph());
  if (!sliced) return sliced.error();
  captured.sliced.emplace(std::move(*sliced));
  captured.ranges.operators = captured.sliced->operators();
  Result<UniqueCudaGraphExec> whole = captured.sliced->Instantiate(0, captured.ranges.operators, stream_.stream());
  if (!whole) return whole.error();
  captured.slices.push_back(std::move(*whole));
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
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(captured.slices[0].get(), stream_.stream()));
  ABACUS_RETURN_IF_ERROR(WaitIdle());
  const Result<double> difference = CompareOutputs(plan, expected, captured.outputs, model_.tolerance);
  return difference ? Status::Ok() : difference.error().WithContext("the captured graph against the uncaptured run");
}

Status GraphRuntime::MeasureCuts(uint32_t bucket) {
  CapturedBucket& captured = buckets_[bucket];
  const uint32_t operators = captured.ranges.operators;
  const uint32_t pieces = std::min(operators, kMaxPieces);
  std::vector<uint32_t> positions;
  for (uint32_t i = 0; i <= pieces; ++i) {
    positions.push_back(static_cast<uint32_t>(static_cast<uint64_t>(operators) * i / pieces));
  }
  const SliceTree tree(positions);
  const auto slices = captured.sliced->Instantiate(tree, SlicedGraph::Which::kSingle, stream_.stream());
  if (!slices) return slices.error();
  const Result<std::vector<double>> pieces_ms = PieceTimesMs(captured, tree, *slices, positions);
  if (!pieces_ms) return pieces_ms.error();
  // Every measured time holds the cost of launching a graph at all: the shortest is taken for little else.
  const double launch_ms = 0.5 * *std::min_element(pieces_ms->begin(), pieces_ms->end());
  std::vector<double> times_ms = {0};
  for (const double piece_ms : *pieces_ms) times_ms.push_back(times_ms.back() + piece_ms - launch_ms);
  captured.ranges.cuts = ChooseCuts(InterpolateCumulative(positions, times_ms), kMaxCuts);
  return Status::Ok();
}

Result<std::vector<double>> GraphRuntime::PieceTimesMs(const CapturedBucket& captured, const SliceTree& tree,
                                                       const std::vector<UniqueCudaGraphExec>& slices,
                                                       const std::vector<uint32_t>& positions) {
  std::vector<UniqueCudaEvent> events;
  for (size_t i = 0; i < positions.size(); ++i) {
    Result<UniqueCudaEvent> event = MakeEvent();
    if (!event) return Error(event.error());
    events.push_back(std::move(*event));
  }
  std::vector<double> fastest_ms(positions.size() - 1, std::numeric_limits<double>::max());
  for (int pass = 0; pass < kCutPasses; ++pass) {
    ABACUS_RETURN_IF_ERROR(CopyInputs(captured, {}));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaEventRecord(events[0].get(), stream_.stream()));
    for (size_t i = 0; i + 1 < positions.size(); ++i) {
      const uint32_t slice = tree.Chain(positions[i], positions[i + 1]).front();
      ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(slices[slice].get(), stream_.stream()));
      ABACUS_RETURN_IF_CUDA_ERROR(cudaEventRecord(events[i + 1].get(), stream_.stream()));
    }
    ABACUS_RETURN_IF_ERROR(WaitIdle());
    for (size_t i = 0; i < fastest_ms.size(); ++i) {
      float elapsed_ms = 0;
      ABACUS_RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&elapsed_ms, events[i].get(), events[i + 1].get()));
      fastest_ms[i] = std::min(fastest_ms[i], static_cast<double>(elapsed_ms));
    }
  }
  return fastest_ms;
}

Status GraphRuntime::MakeSlices(uint32_t bucket) {
  CapturedBucket& captured = buckets_[bucket];
  captured.tree = SliceTree(captured.ranges.cuts);
  auto slices = captured.sliced->Instantiate(captured.tree, SlicedGraph::Which::kAll, stream_.stream());
  if (!slices) return slices.error();
  captured.slices = std::move(*slices);
  return WaitIdle();  // for the uploads
}

Status GraphRuntime::MeasureSolo(uint32_t bucket) {
  BucketRanges& ranges = buckets_[bucket].ranges;
  std::vector<uint64_t> passes_ns;
  for (int pass = 0; pass < kSoloPasses; ++pass) {
    const uint64_t start_ns = MonotonicNs();
    ABACUS_RETURN_IF_ERROR(Run(bucket, 0, ranges.operators, {}));
    passes_ns.push_back(MonotonicNs() - start_ns);
  }
  // The fastest: other workers may be loading on the same GPU.
  ranges.solo_ns = *std::min_element(passes_ns.begin(), passes_ns.end());
  return Status::Ok();
}

// --- Run -----------------------------------------------------------------------------------------------------------

Status GraphRuntime::Start(const RangeRequest& range) {
  ABACUS_RETURN_IF_ERROR(CheckRange(range));
  next_ = 0;
  const uint32_t sequence = started_ + 1;
  if (const Status status = Enqueue(range, sequence); !status.ok()) return Fatal(status, range);
  started_ = sequence;
  in_flight_[sequence % kMaxStarted] = {range.bucket, range.first, range.last, {}, range.gate};
  job_bucket_ = range.bucket;
  next_ = range.last == buckets_[range.bucket].ranges.operators ? 0 : range.last;
  return Status::Ok();
}

Status GraphRuntime::Enqueue(const RangeRequest& range, uint32_t sequence) {
  const CapturedBucket& captured = buckets_[range.bucket];
  DeviceTimes& times = device_mailbox_->times[sequence % kMaxStarted];
  try {
    const c10::cuda::CUDAGuard guard(gpu_);
    const cudaStream_t stream = stream_.stream();
    if (range.gate != 0) ABACUS_RETURN_IF_ERROR(memory_ops_->AwaitReached(stream, device_gate_, range.gate));
    if (clock_) ABACUS_RETURN_IF_ERROR(clock_->Record(stream, &times.started_ns));
    if (range.first == 0) ABACUS_RETURN_IF_ERROR(CopyInputs(captured, range.tensors.inputs));
    ABACUS_RETURN_IF_ERROR(LaunchSlices(captured, range.first, range.last));
    if (range.last == captured.ranges.operators) ABACUS_RETURN_IF_ERROR(CopyOutputs(captured, range.tensors.outputs));
    if (clock_) ABACUS_RETURN_IF_ERROR(clock_->Record(stream, &times.ended_ns));
    if (memory_ops_) ABACUS_RETURN_IF_ERROR(memory_ops_->Write(stream, &device_mailbox_->ended, sequence));
    return Status::Ok();
  } catch (const std::exception& error) {
    return {StatusCode::kWorkerFailed, ErrorText(error)};
  }
}

Result<std::optional<DeviceTimes>> GraphRuntime::Poll() {
  if (!fatal_.ok()) return Error(fatal_);
  const uint32_t oldest = ended_ + 1;
  // SYNC POINT: the GPU writes the number after everything that the range wrote to host memory.
  bool ended = memory_ops_ && static_cast<int32_t>(mailbox_->ended.load(std::memory_order_acquire) - oldest) >= 0;
  const uint64_t now_ns = MonotonicNs();
  if (!ended && (!memory_ops_ || now_ns - queried_ns_ >= kQueryIntervalNs)) {
    queried_ns_ = now_ns;
    const Result<bool> idle = IsIdle();
    if (!idle) return Error(Fatal(idle.error(), in_flight_[oldest % kMaxStarted]));
    ended = *idle;
  }
  if (!ended) return std::nullopt;
  ended_ = oldest;
  return clock_ ? mailbox_->times[oldest % kMaxStarted] : DeviceTimes{};
}

Status GraphRuntime::RunUncut(uint32_t bucket, const JobTensors& tensors) {
  return RunWhole(bucket, tensors, [&]() -> Status {
    const c10::InferenceMode inference;  // as at capture: LibTorch keeps tensors of the capture up to date
    const c10::cuda::CUDAStreamGuard on_stream(stream_);
    buckets_[bucket].graph->replay();
    return Status::Ok();
  });
}

Status GraphRuntime::RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) {
  return RunWhole(bucket, tensors, [&]() -> Status {
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      ABACUS_RETURN_IF_ERROR(LaunchSlices(buckets_[bucket], chain[i], chain[i + 1]));
    }
    return Status::Ok();
  });
}

template <class Launch>
Status GraphRuntime::RunWhole(uint32_t bucket, const JobTensors& tensors, const Launch& launch) {
  const CapturedBucket& captured = buckets_[bucket];
  const RangeRequest whole{bucket, 0, captured.ranges.operators, tensors};
  ABACUS_RETURN_IF_ERROR(CheckRange(whole));
  next_ = 0;
  const auto run = [&]() -> Status {
    const c10::cuda::CUDAGuard guard(gpu_);
    ABACUS_RETURN_IF_ERROR(CopyInputs(captured, tensors.inputs));
    ABACUS_RETURN_IF_ERROR(launch());
    ABACUS_RETURN_IF_ERROR(CopyOutputs(captured, tensors.outputs));
    return WaitIdle();
  };
  Status status;
  try {
    status = run();
  } catch (const std::exception& error) {
    status = {StatusCode::kWorkerFailed, ErrorText(error)};
  }
  return status.ok() ? status : Fatal(status, whole);
}

Status GraphRuntime::LaunchSlices(const CapturedBucket& captured, uint32_t first, uint32_t last) {
  for (uint32_t slice : captured.tree.Chain(first, last)) {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(captured.slices[slice].get(), stream_.stream()));
  }
  return Status::Ok();
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

Result<bool> GraphRuntime::IsIdle() const {
  const cudaError_t error = cudaStreamQuery(stream_.stream());
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();  // "not ready" must not show up in LibTorch's next check of the last error
    return false;
  }
  ABACUS_RETURN_IF_ERROR(CudaStatus(error, "waiting for the GPU"));
  return true;
}

// Polls: a blocking wait would add the wake-up of a thread to every run.
Status GraphRuntime::WaitIdle() const {
  for (;;) {
    const Result<bool> idle = IsIdle();
    if (!idle) return idle.error();
    if (*idle) return Status::Ok();
  }
}

Status GraphRuntime::CheckRange(const RangeRequest& range) const {
  const auto refuse = [&](StatusCode code, const char* why) {
    return Status(code, RangeText(range.bucket, range.first, range.last) + ": " + why);
  };
  if (!fatal_.ok()) return refuse(StatusCode::kWorkerFailed, "refused after an earlier CUDA error");
  if (range.first != 0 && (range.first != next_ || range.bucket != job_bucket_)) {
    return refuse(StatusCode::kInternal, "does not continue the job in progress");
  }
  const std::vector<uint32_t>& cuts = buckets_[range.bucket].ranges.cuts;
  if (range.first >= range.last || !std::ranges::binary_search(cuts, range.first) ||
      !std::ranges::binary_search(cuts, range.last)) {
    return refuse(StatusCode::kInternal, "does not lie between cut points");
  }
  if (started_ - ended_ >= kMaxStarted) return refuse(StatusCode::kInternal, "too many ranges are started");
  if (range.gate != 0 && device_gate_ == nullptr) return refuse(StatusCode::kInternal, "there is no gate to wait for");
  const JobTensors& tensors = range.tensors;
  const Status status = CheckTensorCount(model_.buckets[range.bucket], tensors.inputs.size(), tensors.outputs.size());
  return status.ok() ? status : status.WithContext(RangeText(range.bucket, range.first, range.last));
}

std::string GraphRuntime::RangeText(uint32_t bucket, uint32_t first, uint32_t last) const {
  return c10::str("model \"", model_.name, "\", bucket ", bucket, " (", model_.buckets[bucket].label, "), operators [",
                  first, ", ", last, ") on GPU ", static_cast<int>(gpu_));
}

Status GraphRuntime::Fatal(const Status& status, const RangeRequest& range) {
  fatal_ = status.WithContext(RangeText(range.bucket, range.first, range.last));
  return fatal_;
}

// --- Shared memory -------------------------------------------------------------------------------------------------

Status GraphRuntime::PinArena(std::span<std::byte> arena) {
  const cudaError_t error = cudaHostRegister(arena.data(), arena.size(), cudaHostRegisterDefault);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return CudaStatus(error, c10::str("cudaHostRegister of ", arena.size(), " bytes of shared memory"));
  }
  pinned_arena_ = arena;
  return Status::Ok();
}

Status GraphRuntime::UseGate(GateWord* gate) {
  if (!memory_ops_) return memory_ops_.error();
  if (pinned_arena_.empty()) return {StatusCode::kUnavailable, "the arena is not page-locked"};
  const auto unavailable = [](cudaError_t error, const char* call) {
    (void)cudaGetLastError();
    return Status(StatusCode::kUnavailable, CudaStatus(error, call).message());
  };
  const c10::cuda::CUDAGuard guard(gpu_);
  // The page belongs to the gate's segment alone: the arena starts on another one (see layout.h).
  auto* const page = reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(gate) / kPageBytes * kPageBytes);
  if (const cudaError_t error = cudaHostRegister(page, kPageBytes, cudaHostRegisterMapped); error != cudaSuccess) {
    return unavailable(error, "cudaHostRegister of the gate's page");
  }
  pinned_gate_page_ = page;
  void* address = nullptr;
  if (const cudaError_t error = cudaHostGetDevicePointer(&address, &gate->value, /*flags=*/0); error != cudaSuccess) {
    return unavailable(error, "cudaHostGetDevicePointer of the gate");
  }
  // Once with a value that is reached, so that the first wait in a round is not the first of all.
  const Status tried = memory_ops_->AwaitReached(stream_.stream(), address, gate->value.load());
  if (!tried.ok()) return {StatusCode::kUnavailable, tried.message()};
  ABACUS_RETURN_IF_ERROR(WaitIdle());
  device_gate_ = address;
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
