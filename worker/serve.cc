#include "worker/serve.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "shm/clock.h"
#include "shm/gate.h"
#include "shm/log.h"
#include "shm/process.h"
#include "worker/executor.h"

namespace abacus {
namespace {

constexpr uint64_t kOpenTimeoutNs = 5 * kNsPerSecond;
constexpr uint64_t kArenaTimeoutNs = 60 * kNsPerSecond;
constexpr int kOrphanGraceSeconds = 5;  // for the range that runs; then the process ends regardless

// Watches the controller from a thread of its own: when it is gone, sets *stop and lets started ranges run to their
// end.
class ControllerWatch {
 public:
  ControllerWatch(SegmentHeader* header, WorkerBlock* block, std::atomic<bool>* stop)
      : thread_([header, block, stop](const std::stop_token& token) { Run(token, header, block, stop); }) {}

 private:
  static void Run(const std::stop_token& token, SegmentHeader* header, WorkerBlock* block, std::atomic<bool>* stop) {
    const pid_t controller = header->owner_pid;
    const int fd = OpenPidFd(controller);
    pollfd poll_fd{fd, POLLIN, 0};
    while (!token.stop_requested()) {
      const int ready = poll(&poll_fd, 1, 100);  // a negative descriptor is only waited for
      if (fd >= 0 ? ready <= 0 : OwnerAlive(*header)) continue;
      spdlog::warn("the controller (pid {}) is gone; exiting", controller);
      stop->store(true);
      Gate(&header->gate).OpenForGood();
      Doorbell(&block->command_bell).Ring();
      for (int i = 0; i < kOrphanGraceSeconds * 10 && !token.stop_requested(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
      if (!token.stop_requested()) _exit(1);
    }
    if (fd >= 0) close(fd);
  }

  std::jthread thread_;
};

void SetState(WorkerBlock* block, WorkerState state) {
  block->heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
  block->state.store(static_cast<uint32_t>(state), std::memory_order_release);
}

int Fail(Region* region, WorkerBlock* block, const Status& status) {
  spdlog::error("{}", status.ToString());
  StoreText(block->error, status.message());
  SetState(block, WorkerState::kFailed);
  Doorbell(&region->header().controller_bell).Ring();
  return 1;
}

}  // namespace

void AddServeOptions(CLI::App& app, ServeOptions* options) {
  app.add_option("--segment", options->segment, "Name of the controller whose segment to attach to")->required();
  app.add_option("--index", options->index, "Worker block of the segment")->required();
  app.add_option("--model", options->model, "Model description NAME.toml")->required();
  app.add_option("--device", options->device, "cpu, cuda or fake");
  app.add_option("--gpu", options->gpu, "CUDA device index");
  app.add_option("--cpu-threads", options->cpu_threads, "Threads of one operator on the CPU");
  app.add_option("--spin-us", options->spin_us, "Time to spin on an empty ring before sleeping");
  app.add_option("--gate", options->gate, "device or host: where a GPU's ranges wait that came ahead of their round")
      ->check(CLI::IsMember({"device", "host"}));
  app.add_flag("--gpu-timestamps", options->gpu_timestamps, "Record on the GPU when ranges begin and end");
  app.add_option("--log-level", options->log_level, "trace, debug, info, warn or error");
}

int Serve(const ServeOptions& options, const RuntimeFactory& factory) {
  InitLog("worker " + std::to_string(options.index), options.log_level);
  // Ctrl-C in a terminal reaches the whole group; the controller drains and then stops its workers itself.
  signal(SIGINT, SIG_IGN);
  auto opened = Region::Open(options.segment, Region::Access::kReadWrite, kOpenTimeoutNs);
  if (!opened) {
    spdlog::error("{}", opened.error().message());
    return 1;
  }
  Region& region = **opened;
  if (options.index >= region.worker_count()) {
    spdlog::error("worker index {} but the segment has {} workers", options.index, region.worker_count());
    return 1;
  }
  WorkerBlock& block = region.worker(options.index);
  std::atomic<bool> stop{false};
  const ControllerWatch watch(&region.header(), &block, &stop);
  StoreText(block.device, options.device == "cuda" ? "cuda:" + std::to_string(options.gpu) : options.device);
  SetState(&block, WorkerState::kLoading);

  const auto spec = LoadModelSpec(options.model);
  if (!spec) return Fail(&region, &block, spec.error());
  const uint64_t begin_ns = MonotonicNs();
  const auto progress = [&](std::string_view stage) {
    block.heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
    spdlog::info("{}: {}", spec->name, stage);
  };
  auto runtime = factory(*spec, options, progress);
  if (!runtime) return Fail(&region, &block, runtime.error());
  if (Status there = region.AwaitArena(kArenaTimeoutNs); !there.ok()) return Fail(&region, &block, there);
  if (Status pinned = (*runtime)->PinArena(region.arena()); !pinned.ok()) return Fail(&region, &block, pinned);

  Executor executor(&region, options.index, *spec, runtime->get());
  executor.PublishRanges();
  if (options.device == "cuda" && options.gate == "device") {
    if (const Status held = executor.HoldOnDevice(); !held.ok()) {
      spdlog::warn("{}: ranges wait for their round on the host: {}", spec->name, held.message());
    }
  }
  spdlog::info("{}: loaded in {:.2f} s on {}, {} buckets", spec->name,
               static_cast<double>(MonotonicNs() - begin_ns) * 1e-9, options.device, spec->bucket_count());
  SetState(&block, WorkerState::kLoaded);
  Doorbell(&region.header().controller_bell).Ring();

  const Status ended = executor.Serve(stop, options.spin_us * kNsPerUs);
  if (!ended.ok()) return Fail(&region, &block, ended);
  return 0;
}

}  // namespace abacus
