#include "worker/serve/serve.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string_view>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "models/held_model.h"
#include "shm/gate.h"
#include "worker/serve/executor.h"
#include "worker/serve/measuring.h"

namespace abacus {
namespace {

constexpr uint64_t kOpenTimeoutNs = 5 * kNsPerSecond;
constexpr uint64_t kArenaTimeoutNs = 60 * kNsPerSecond;
constexpr int kOrphanGraceSeconds = 5;  // for the range that runs; then the process ends regardless

// Watches the controller from a thread of its own: when it is gone, sets *stop and lets started ranges run to their
// end.
class ControllerWatch {
 public:
  ControllerWatch(Region* region, WorkerSlot* slot, std::atomic<bool>* stop)
      : thread_([region, slot, stop](const std::stop_token& token) { Run(token, region, slot, stop); }) {}

 private:
  static void Run(const std::stop_token& token, Region* region, WorkerSlot* slot, std::atomic<bool>* stop) {
    const pid_t controller = region->header().owner_pid;
    const int fd = OpenPidFd(controller);
    pollfd poll_fd{fd, POLLIN, 0};
    while (!token.stop_requested()) {
      const int ready = poll(&poll_fd, 1, 100);  // a negative descriptor is only waited for
      if (fd >= 0 ? ready <= 0 : OwnerAlive(region->header())) continue;
      LogWarn("the controller (pid {}) is gone; exiting", controller);
      stop->store(true);
      Gate(&region->lane(LaneId(slot->lane)).gate).OpenForGood();
      Doorbell(&slot->command_bell).Ring();
      for (int i = 0; i < kOrphanGraceSeconds * 10 && !token.stop_requested(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
      if (!token.stop_requested()) _exit(1);
    }
    if (fd >= 0) close(fd);
  }

  std::jthread thread_;
};

int Fail(Region* region, WorkerSlot* slot, const Status& status) {
  LogError("{}", status.ToString());
  StoreText(slot->error, status.message());
  slot->error_code.store(static_cast<uint32_t>(status.code()), std::memory_order_relaxed);
  SetWorkerState(slot, WorkerState::kFailed);
  Doorbell(&region->header().controller_bell).Ring();
  return 1;
}

// The model as the controller holds it, or as it lies in its files.
Result<TakenModel> TakeModel(const ServeOptions& options) {
  if (!options.digest.empty()) return TakeHeldModel(options.model, options.digest, options.device != "fake");
  Result<ModelSpec> spec = LoadModelSpec(options.model);
  if (!spec) return Error(spec.error());
  return TakenModel(std::move(*spec));
}

}  // namespace

int Serve(const ServeOptions& options, const RuntimeFactory& factory) {
  InitLog("worker " + std::to_string(options.worker.value()), options.log_level);
  // Ctrl-C in a terminal reaches the whole group; the controller drains and then stops its workers itself.
  signal(SIGINT, SIG_IGN);
  auto opened = Region::Open(options.segment, Region::Access::kReadWrite, kOpenTimeoutNs);
  if (!opened) {
    LogError("{}", opened.error().message());
    return 1;
  }
  Region& region = **opened;
  if (options.worker.value() >= kMaxWorkers) {
    LogError("worker {} but a segment has {} slots", options.worker.value(), kMaxWorkers);
    return 1;
  }
  WorkerSlot& slot = region.worker(options.worker);
  if (slot.service >= region.service_count() || slot.lane >= region.lane_count()) {
    LogError("worker slot {} names service {} and lane {}, but the segment has {} services and {} lanes",
             options.worker.value(), slot.service, slot.lane, region.service_count(), region.lane_count());
    return 1;
  }
  std::atomic<bool> stop{false};
  const ControllerWatch watch(&region, &slot, &stop);
  StoreText(slot.device, options.device == "cuda" ? "cuda:" + options.gpu : options.device);
  SetWorkerState(&slot, WorkerState::kLoading);

  const uint64_t begin_ns = MonotonicNs();
  const Result<TakenModel> model = TakeModel(options);
  if (!model) return Fail(&region, &slot, model.error());
  const ModelSpec& spec = model->spec();
  const EarlierMeasurement earlier = ReadEarlierMeasurement(slot, spec, options.digest);
  uint64_t waited_ns = 0;
  LoadHooks hooks;
  hooks.known = earlier.ranges;
  hooks.progress = [&](std::string_view stage) {
    slot.heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
    LogInfo("{}: {}", spec.name, stage);
  };
  hooks.await_turn = [&] {
    const uint64_t since_ns = MonotonicNs();
    if (!AwaitTurn(&slot, stop)) {
      LogInfo("{}: stopped before it measured", spec.name);
      _exit(0);  // nothing runs on the device
    }
    waited_ns += MonotonicNs() - since_ns;
  };
  auto runtime = factory(spec, options, hooks);
  if (!runtime) return Fail(&region, &slot, runtime.error());
  if (Status same = model->CheckUnchanged(); !same.ok()) return Fail(&region, &slot, same);
  if (!earlier.HoldsFor(**runtime)) {
    StoreText(slot.measured_digest, "");
    return Fail(&region, &slot,
                {StatusCode::kUnavailable, spec.name + ": the device or its libraries are others than before; the next "
                                                       "worker measures again"});
  }
  if (Status there = region.AwaitArena(kArenaTimeoutNs); !there.ok()) return Fail(&region, &slot, there);
  if (Status pinned = (*runtime)->PinArena(region.arena()); !pinned.ok()) return Fail(&region, &slot, pinned);

  Executor executor(&region, options.worker, spec, runtime->get());
  executor.PublishRanges(options.digest);
  if (options.device == "cuda" && options.gate == "device") {
    if (const Status held = executor.HoldOnDevice(); !held.ok()) {
      LogWarn("{}: ranges wait for their round on the host: {}", spec.name, held.message());
    }
  }
  LogInfo("{}: loaded in {:.2f} s on {} ({:.2f} s of it waiting for its turn), {} buckets", spec.name,
          static_cast<double>(MonotonicNs() - begin_ns) * 1e-9, options.device, static_cast<double>(waited_ns) * 1e-9,
          spec.bucket_count());
  SetWorkerState(&slot, WorkerState::kLoaded);
  Doorbell(&region.header().controller_bell).Ring();

  const Status ended = executor.Serve(stop, options.spin_us * kNsPerUs);
  if (!ended.ok()) return Fail(&region, &slot, ended);
  return 0;
}

}  // namespace abacus
