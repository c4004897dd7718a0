#include "worker/cuda/graph_runtime.h"

#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "base/clock.h"
#include "worker/cuda/cut_timing.h"
#include "worker/cuda/gpu_device.h"
#include "worker/torch/job_rows.h"
#include "worker/torch/known_ranges.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

constexpr int kSoloPasses = 15;
constexpr uint64_t kQueryIntervalNs = 50'000;  // between looks at the stream for errors
constexpr uint64_t kOnlyJob = 0;               // the runtime does not know the numbers of its jobs

// Of the GPU's memory, over all processes.
int64_t FreeBytes() {
  size_t free_bytes = 0, total_bytes = 0;
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  return static_cast<int64_t>(free_bytes);
}

}  // namespace

Result<std::unique_ptr<TorchRuntime>> GraphRuntime::Create(std::unique_ptr<ModelProgram> program, int gpu,
                                                           bool timestamps, const LoadHooks& hooks) {
  const std::string name = program->name();
  try {
    const c10::cuda::CUDAGuard guard(static_cast<at::DeviceIndex>(gpu));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());  // the weights were copied on another stream
    std::unique_ptr<GraphRuntime> runtime(new GraphRuntime(std::move(program), gpu));
    if (const Status status = runtime->Load(timestamps, hooks); !status.ok()) {
      return Error(status.WithContext(c10::str("model \"", name, "\"")));
    }
    c10::cuda::CUDACachingAllocator::emptyCache();  // gives back what only the uncaptured runs needed
    return runtime;
  } catch (const std::exception& error) {
    return Error(StatusCode::kWorkerFailed, c10::str("model \"", name, "\" on GPU ", gpu, ": ", ErrorText(error)));
  }
}

GraphRuntime::GraphRuntime(std::unique_ptr<ModelProgram> program, int gpu)
    : program_(std::move(program)),
      site_{static_cast<at::DeviceIndex>(gpu),
            c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<at::DeviceIndex>(gpu)),
            at::cuda::graph_pool_handle(), &staging_},
      stream_(site_.stream.stream()),
      memory_ops_(StreamMemoryOps::Find()),
      buckets_(program_->buckets().size()) {}

std::string GraphRuntime::device_name() const { return GpuName(site_.gpu); }

std::string GraphRuntime::libraries() const { return GpuLibraries(); }

// --- Load ----------------------------------------------------------------------------------------------------------

Status GraphRuntime::Load(bool timestamps, const LoadHooks& hooks) {
  const ProgressFn progress = hooks.progress ? hooks.progress : ProgressFn([](std::string_view) {});
  Result<DeviceMailbox> mailbox = DeviceMailbox::Create();
  if (!mailbox) return mailbox.error();
  mailbox_ = std::move(*mailbox);
  Result<JobStaging> staging = JobStaging::Create(*program_);
  if (!staging) return staging.error();
  staging_ = std::move(*staging);
  if (timestamps) {
    if (const Result<GpuClock> clock = GpuClock::Create()) {
      clock_ = *clock;
    } else {
      progress("runs without GPU timestamps: " + clock.error().message());
    }
  }
  const auto buckets = static_cast<uint32_t>(buckets_.size());
  std::vector<uint32_t> unknown;  // largest first
  for (uint32_t i = 0; i < buckets; ++i) {
    const uint32_t b = buckets - 1 - i;
    progress(c10::str("capture bucket ", i + 1, " of ", buckets));
    const Result<bool> ready = PrepareBucket(b, hooks);
    if (!ready) return ready.error().WithContext(BucketText(b));
    if (!*ready) unknown.push_back(b);
  }
  if (!unknown.empty() && hooks.await_turn) hooks.await_turn();
  for (size_t i = 0; i < unknown.size(); ++i) {
    progress(c10::str("measure bucket ", i + 1, " of ", unknown.size()));
    const Status measured = Measure(unknown[i]);
    if (!measured.ok()) return measured.WithContext(BucketText(unknown[i]));
  }
  size_t slices = 0;
  for (const auto& bucket : buckets_) slices += bucket->slices.size();
  progress(c10::str("made ", slices, " slices in ", slicing_ns_ / kNsPerMs, " ms; they, and whatever else started on ",
                    "this GPU meanwhile, take ", slices_bytes_ >> 20, " MiB"));
  return Status::Ok();
}

Result<bool> GraphRuntime::PrepareBucket(uint32_t bucket, const LoadHooks& hooks) {
  Result<CapturedBucket> captured = CaptureBucket(*program_, bucket, site_);
  if (!captured) return Error(captured.error());
  const uint32_t operators = captured->sliced.operators();
  buckets_[bucket] = std::make_unique<ReadyBucket>(ReadyBucket{std::move(*captured), UncutRanges(operators), {}, {}});
  const BucketRanges* known = KnownRanges(hooks, bucket, operators);
  if (known == nullptr && hooks.measure) return false;
  if (known != nullptr) buckets_[bucket]->ranges = *known;
  ABACUS_RETURN_IF_ERROR(MakeSlices(*buckets_[bucket]));
  // Once, so that no bucket fails for the first time while queries wait.
  ABACUS_RETURN_IF_ERROR(Run(bucket, 0, operators, {}));
  return true;
}

Status GraphRuntime::Measure(uint32_t bucket) {
  ReadyBucket& ready = *buckets_[bucket];
  Result<std::vector<uint32_t>> cuts = MeasureCuts(ready.captured.sliced, ready.captured.memory, stream_);
  if (!cuts) return cuts.error();
  ready.ranges.cuts = std::move(*cuts);
  ABACUS_RETURN_IF_ERROR(MakeSlices(ready));
  return MeasureSolo(bucket);
}

Status GraphRuntime::MakeSlices(ReadyBucket& bucket) {
  const uint64_t begin_ns = MonotonicNs();
  const int64_t free_bytes = FreeBytes();
  bucket.tree = SliceTree(bucket.ranges.cuts);
  auto slices = bucket.captured.sliced.Instantiate(bucket.tree, SlicedGraph::Which::kAll, stream_);
  if (!slices) return slices.error();
  bucket.slices = std::move(*slices);
  ABACUS_RETURN_IF_ERROR(WaitIdle(stream_));  // for the uploads
  slicing_ns_ += MonotonicNs() - begin_ns;
  slices_bytes_ += free_bytes - FreeBytes();
  return Status::Ok();
}

Status GraphRuntime::MeasureSolo(uint32_t bucket) {
  BucketRanges& ranges = buckets_[bucket]->ranges;
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
  if (range.first == 0) progress_.Begin(kOnlyJob, range.bucket);
  const uint32_t sequence = started_ + 1;
  if (const Status status = Enqueue(range, sequence); !status.ok()) return Fatal(status, range);
  started_ = sequence;
  started_ranges_[sequence % kMaxStarted] = {range.bucket, range.first, range.last, {}, range.gate};
  progress_.Advance(range.last, ranges(range.bucket).operators);
  return Status::Ok();
}

Status GraphRuntime::Enqueue(const RangeRequest& range, uint32_t sequence) {
  const ReadyBucket& bucket = *buckets_[range.bucket];
  try {
    const c10::cuda::CUDAGuard guard(site_.gpu);
    if (range.gate != 0) ABACUS_RETURN_IF_ERROR(memory_ops_->AwaitReached(stream_, gate_.device_value, range.gate));
    if (clock_) ABACUS_RETURN_IF_ERROR(clock_->Record(stream_, mailbox_.device_started_ns(sequence)));
    if (range.first == 0) ABACUS_RETURN_IF_ERROR(bucket.captured.memory.CopyIn(range.tensors, sequence, stream_));
    ABACUS_RETURN_IF_ERROR(bucket.Launch(range.first, range.last, stream_));
    if (range.last == bucket.ranges.operators) {
      ABACUS_RETURN_IF_ERROR(bucket.captured.memory.CopyOut(range.tensors, sequence, stream_));
    }
    if (clock_) ABACUS_RETURN_IF_ERROR(clock_->Record(stream_, mailbox_.device_ended_ns(sequence)));
    if (memory_ops_) ABACUS_RETURN_IF_ERROR(memory_ops_->Write(stream_, mailbox_.device_ended(), sequence));
    return Status::Ok();
  } catch (const std::exception& error) {
    return {StatusCode::kWorkerFailed, ErrorText(error)};
  }
}

Result<std::optional<DeviceTimes>> GraphRuntime::Poll() {
  // Also after an error that came behind it: until a range has ended, its copies may write to the arena.
  const uint32_t oldest = ended_ + 1;
  bool ended = memory_ops_ && mailbox_.HasEnded(oldest);
  const uint64_t now_ns = MonotonicNs();
  if (!ended && (!memory_ops_ || now_ns - queried_ns_ >= kQueryIntervalNs)) {
    queried_ns_ = now_ns;
    const Result<bool> idle = IsIdle(stream_);
    if (!idle) return Error(Fatal(idle.error(), started_ranges_[oldest % kMaxStarted]));
    ended = *idle;
  }
  if (!ended) return std::nullopt;
  Finish(oldest);
  ended_ = oldest;
  return clock_ ? mailbox_.times(oldest) : DeviceTimes{};
}

void GraphRuntime::Finish(uint32_t sequence) {
  const RangeRequest& range = started_ranges_[sequence % kMaxStarted];
  if (range.last == ranges(range.bucket).operators) buckets_[range.bucket]->captured.memory.ScatterOutputs(sequence);
}

Status GraphRuntime::RunUncut(uint32_t bucket, const JobTensors& tensors) {
  return RunWhole(bucket, tensors, [&]() -> Status {
    const c10::InferenceMode inference;  // as at capture: LibTorch keeps tensors of the capture up to date
    const c10::cuda::CUDAStreamGuard on_stream(site_.stream);
    buckets_[bucket]->captured.graph->replay();
    return Status::Ok();
  });
}

Status GraphRuntime::RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) {
  return RunWhole(bucket, tensors, [&]() -> Status {
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      ABACUS_RETURN_IF_ERROR(buckets_[bucket]->Launch(chain[i], chain[i + 1], stream_));
    }
    return Status::Ok();
  });
}

template <class Launch>
Status GraphRuntime::RunWhole(uint32_t bucket, const JobTensors& tensors, const Launch& launch) {
  const RangeRequest whole{bucket, 0, ranges(bucket).operators, tensors};
  ABACUS_RETURN_IF_ERROR(CheckRange(whole));
  progress_.End();
  const BucketMemory& memory = buckets_[bucket]->captured.memory;
  const uint32_t sequence = started_ + 1;  // its staging memory is free
  const auto run = [&]() -> Status {
    const c10::cuda::CUDAGuard guard(site_.gpu);
    ABACUS_RETURN_IF_ERROR(memory.CopyIn(tensors, sequence, stream_));
    ABACUS_RETURN_IF_ERROR(launch());
    ABACUS_RETURN_IF_ERROR(memory.CopyOut(tensors, sequence, stream_));
    ABACUS_RETURN_IF_ERROR(WaitIdle(stream_));
    memory.ScatterOutputs(sequence);
    return Status::Ok();
  };
  Status status;
  try {
    status = run();
  } catch (const std::exception& error) {
    status = {StatusCode::kWorkerFailed, ErrorText(error)};
  }
  return status.ok() ? status : Fatal(status, whole);
}

Status GraphRuntime::ReadyBucket::Launch(uint32_t first, uint32_t last, cudaStream_t stream) const {
  for (uint32_t slice : tree.Chain(first, last)) {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(slices[slice].get(), stream));
  }
  return Status::Ok();
}

Status GraphRuntime::CheckRange(const RangeRequest& range) const {
  const auto refuse = [&](StatusCode code, std::string_view why) {
    return Status(code, c10::str(RangeText(range.bucket, range.first, range.last), ": ", why));
  };
  if (!fatal_.ok()) return refuse(StatusCode::kWorkerFailed, "refused after an earlier CUDA error");
  if (range.first != 0 && !progress_.Continues(kOnlyJob, range.bucket, range.first)) {
    return refuse(StatusCode::kInternal, "does not continue the job in progress");
  }
  const std::vector<uint32_t>& cuts = ranges(range.bucket).cuts;
  if (range.first >= range.last || !std::ranges::binary_search(cuts, range.first) ||
      !std::ranges::binary_search(cuts, range.last)) {
    return refuse(StatusCode::kInternal, "does not lie between cut points");
  }
  if (started_ - ended_ >= kMaxStarted) return refuse(StatusCode::kInternal, "too many ranges are started");
  if (range.gate != 0 && gate_.device_value == nullptr)
    return refuse(StatusCode::kInternal, "there is no gate to wait for");
  const Status status = CheckJob(program_->spec(), program_->buckets()[range.bucket].bucket, range.tensors);
  return status.ok() ? status : refuse(status.code(), status.message());
}

std::string GraphRuntime::BucketText(uint32_t bucket) const {
  return c10::str("bucket ", bucket, " (", program_->buckets()[bucket].label, ")");
}

std::string GraphRuntime::RangeText(uint32_t bucket, uint32_t first, uint32_t last) const {
  return c10::str("model \"", program_->name(), "\", bucket ", bucket, " (", program_->buckets()[bucket].label,
                  "), operators [", first, ", ", last, ") on GPU ", static_cast<int>(site_.gpu));
}

Status GraphRuntime::Fatal(const Status& status, const RangeRequest& range) {
  if (fatal_.ok()) fatal_ = status.WithContext(RangeText(range.bucket, range.first, range.last));
  return fatal_;
}

// --- Shared memory -------------------------------------------------------------------------------------------------

Status GraphRuntime::PinArena(std::span<std::byte> arena) {
  Result<UniquePinned> pinned = abacus::PinArena(arena);
  if (!pinned) return pinned.error();
  pinned_arena_ = std::move(*pinned);
  return Status::Ok();
}

Status GraphRuntime::UseGate(GateWord* gate) {
  if (!memory_ops_) return memory_ops_.error();
  if (pinned_arena_ == nullptr) return {StatusCode::kUnavailable, "the arena is not page-locked"};
  const c10::cuda::CUDAGuard guard(site_.gpu);
  Result<PinnedGate> pinned = PinGate(gate);
  if (!pinned) return {StatusCode::kUnavailable, pinned.error().message()};
  // Once with a value that is reached, so that the first wait in a round is not the first of all.
  const Status tried = memory_ops_->AwaitReached(stream_, pinned->device_value, gate->value.load());
  if (!tried.ok()) return {StatusCode::kUnavailable, tried.message()};
  ABACUS_RETURN_IF_ERROR(WaitIdle(stream_));
  gate_ = std::move(*pinned);
  return Status::Ok();
}

}  // namespace abacus
