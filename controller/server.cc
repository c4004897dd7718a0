#include "controller/server.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "controller/front_end.h"
#include "controller/process_setup.h"
#include "controller/scheduler_loop.h"
#include "controller/trace_writer.h"
#include "controller/worker_supervisor.h"
#include "shm/clock.h"
#include "shm/gate.h"
#include "shm/log.h"
#include "shm/region.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kStopTimeoutNs = 5 * kNsPerSecond;
constexpr int kPollMs = 500;
constexpr uint32_t kRefusalSlots = 4096;  // for errors on their way out, beside the accepted queries

// Writes the trace on request, in a thread of its own: the main thread goes on watching the workers. A request during
// the writing is served after it; of several, the newest.
class TraceOnRequest {
 public:
  TraceOnRequest(const Config& config, const TraceRecorder* recorder, fs::path path)
      : recorder_(recorder), path_(std::move(path)) {
    subject_.controller = config.server.name;
    subject_.capacity = config.scheduler.trace_events;
    for (const ServiceConfig& service : config.services) subject_.services.push_back(service.name);
  }

  void Request() {
    // Not by the writer: copying holds the recorder's lock, and the writer's priority is low.
    std::vector<TraceEvent> events = recorder_->Copy();
    const std::lock_guard lock(mutex_);
    requested_ = std::move(events);
    if (writing_) return;
    writing_ = true;
    thread_ = std::jthread([this] { WriteRequested(); });
  }

 private:
  void WriteRequested() {
    setpriority(PRIO_PROCESS, 0, 10);  // of this thread: queries go first
    for (;;) {
      std::vector<TraceEvent> events;
      {
        const std::lock_guard lock(mutex_);
        writing_ = requested_.has_value();
        if (!writing_) return;
        events = *std::exchange(requested_, std::nullopt);
      }
      if (const Status status = WriteTrace(events, subject_, path_); status.ok()) {
        spdlog::info("wrote {} events to {}", events.size(), path_.string());
      } else {
        spdlog::error("{}", status.message());
      }
    }
  }

  const TraceRecorder* const recorder_;
  const fs::path path_;
  TraceSubject subject_;
  std::mutex mutex_;
  std::optional<std::vector<TraceEvent>> requested_;  // guarded by mutex_, as is writing_
  bool writing_ = false;
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace

Status RunServer(const Config& config, uint64_t process_start_ns) {
  RunLock lock;
  ABACUS_RETURN_IF_ERROR(lock.Acquire(config.server.name));
  const fs::path& directory = lock.directory();
  // Before any thread exists, so that all inherit the mask, and before others can find us and send one.
  const int signal_fd = BlockSignals({SIGUSR1});
  auto region = Region::Create(config.server.name, config.services.size(), config.server.arena_bytes);
  if (!region) return region.error();
  auto policy = MakePolicy(config.scheduler.policy, config.scheduler.packing);
  if (!policy) return policy.error();
  StoreText((*region)->header().policy, config.scheduler.policy);

  const fs::path bin_dir = ProgramDirectory();
  const DeviceKind device = ResolveDevice(config.worker.device, bin_dir);
  QueryTable table(config.limits.max_queries + kRefusalSlots);
  QueryChannel channel(config.limits.max_queries);
  Doorbell scheduler_bell(&(*region)->header().controller_bell);
  auto front_end = FrontEnd::Create(config, (directory / "controller.ipc").string(), region->get(), &table, &channel,
                                    [&] { scheduler_bell.Ring(); });
  if (!front_end) return front_end.error();
  StoreText((*region)->header().endpoint, (*front_end)->endpoints().front());
  WorkerSupervisor supervisor(config, device, bin_dir, region->get());
  SchedulerLoop scheduler(config, region->get(), &table, &channel, std::move(*policy),
                          ServicePredictor::Load(config.scheduler.predictor), &supervisor,
                          [&] { (*front_end)->Wake(); });
  supervisor.SetListener(&scheduler);
  TraceOnRequest trace(config, &scheduler.trace(), directory / "trace.json");

  std::atomic<bool> stop_front{false}, stop_scheduler{false};
  std::jthread front_thread([&] {
    pthread_setname_np(pthread_self(), "front");
    (*front_end)->Run(stop_front);
  });
  std::jthread scheduler_thread([&] {
    pthread_setname_np(pthread_self(), "sched");
    scheduler.Run(stop_scheduler);
  });
  for (const std::string& endpoint : (*front_end)->endpoints()) spdlog::info("listening on {}", endpoint);
  spdlog::info("controller '{}' is up in {:.1f} ms, policy {}; starting {} workers", config.server.name,
               static_cast<double>(MonotonicNs() - process_start_ns) * 1e-6, config.scheduler.policy,
               config.services.size());
  supervisor.StartAll();
  // While the workers load; they touch the arena only after that.
  Status reserved = (*region)->ReserveArena();
  if (reserved.ok()) {
    (*front_end)->SetArenaReady();
    spdlog::info("{} MiB of shared memory reserved after {:.1f} ms", config.server.arena_bytes >> 20,
                 static_cast<double>(MonotonicNs() - process_start_ns) * 1e-6);
  } else {
    kill(getpid(), SIGTERM);  // the way out below ends the workers, too
  }
  // True when a signal asks to stop; one that asks for the trace is dealt with.
  const auto stop_requested = [&](int timeout_ms) {
    if (!supervisor.Poll(timeout_ms, signal_fd)) return false;
    const int signal_number = ConsumeSignal(signal_fd);
    if (signal_number == SIGUSR1) trace.Request();
    return signal_number != 0 && signal_number != SIGUSR1;
  };
  while (!stop_requested(kPollMs)) {
  }

  spdlog::info("draining: {} queries in flight", scheduler.InFlight());
  (*region)->header().draining.store(1, std::memory_order_release);
  (*front_end)->SetDraining();
  const uint64_t drain_end_ns = MonotonicNs() + config.server.drain_timeout_ns;
  const auto pending = [&] { return scheduler.InFlight() > 0 || (*front_end)->InUse() > 0; };
  while (pending() && MonotonicNs() < drain_end_ns) {
    if (stop_requested(10)) {
      spdlog::warn("second signal: not waiting any longer");
      break;
    }
  }
  if (scheduler.InFlight() > 0) {  // whatever is left gets its answer now
    spdlog::warn("{} queries did not finish in time; ending them", scheduler.InFlight());
    for (uint32_t i = 0; i < config.services.size(); ++i) {
      scheduler.Post({WorkerEvent::kShutDown, i, "the controller is shutting down"});
    }
    supervisor.KillAll("was still busy at shutdown");
    const uint64_t end_ns = MonotonicNs() + kNsPerSecond;
    while (pending() && MonotonicNs() < end_ns) supervisor.Poll(10, -1);
  }
  stop_scheduler.store(true, std::memory_order_release);
  scheduler_bell.Ring();
  scheduler_thread.join();
  Gate(&(*region)->header().gate).OpenForGood();  // a worker that holds a range back would not see the stop
  supervisor.StopAll(kStopTimeoutNs);
  stop_front.store(true, std::memory_order_release);
  (*front_end)->Wake();
  front_thread.join();
  close(signal_fd);
  spdlog::info("stopped");
  return reserved;
}

}  // namespace abacus
