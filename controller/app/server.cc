#include "controller/app/server.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/signals.h"
#include "controller/app/run_directory.h"
#include "controller/config/service_set.h"
#include "controller/intake/front_end.h"
#include "controller/intake/lease_socket.h"
#include "controller/intake/leases.h"
#include "controller/schedule/scheduler_loop.h"
#include "controller/trace/trace_request.h"
#include "controller/workers/mps_control.h"
#include "controller/workers/worker_supervisor.h"
#include "shm/gate.h"
#include "shm/region.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kStopTimeoutNs = 5 * kNsPerSecond;
constexpr int kPollMs = 500;
constexpr uint64_t kLeasingClients = 16;  // all leases together are as much memory as those of so many clients may be
constexpr uint32_t kRefusalSlots = 4096;  // for errors on their way out, beside the accepted queries

double SinceMs(uint64_t start_ns) { return static_cast<double>(MonotonicNs() - start_ns) * 1e-6; }

TraceSubject SubjectOf(const Config& config, const ServiceSet& services) {
  TraceSubject subject;
  subject.controller = config.server.name;
  subject.capacity = config.scheduler.trace_events;
  subject.lanes = config.worker.gpus;
  for (const ServicePtr& service : services.services()) subject.services.push_back(service->config.name);
  return subject;
}

SchedulerLoop::Setup SchedulerSetup(const Config& config, std::unique_ptr<Policy> policy) {
  SchedulerLoop::Setup setup;
  setup.config = config.scheduler;
  setup.round_timeout_ns = config.worker.round_timeout_ns;
  setup.policy = std::move(policy);
  for (size_t i = 0; i < config.worker.gpus.size(); ++i) {
    setup.predictors.push_back(ServicePredictor::Load(config.scheduler.predictor));
  }
  return setup;
}

std::jthread NamedThread(const char* name, std::function<void()> run) {
  return std::jthread([name, run = std::move(run)] {
    pthread_setname_np(pthread_self(), name);
    run();
  });
}

// What runs while the controller serves, and how it comes to its end.
class Serving {
 public:
  Serving(const Config& config, Region* region, FrontEnd* front_end, SchedulerLoop* scheduler,
          WorkerSupervisor* supervisor, TraceRequest* trace, int signal_fd)
      : drain_timeout_ns_(config.server.drain_timeout_ns),
        region_(region),
        front_end_(front_end),
        scheduler_(scheduler),
        supervisor_(supervisor),
        trace_(trace),
        signal_fd_(signal_fd) {}

  void UntilSignal() {
    while (!StopRequested(kPollMs)) {
    }
  }
  // New queries get SHUTTING_DOWN, accepted ones are answered, for at most drain_timeout_ms.
  void Drain() {
    LogInfo("draining: {} queries in flight", scheduler_->InFlight());
    region_->header().draining.store(1, std::memory_order_release);
    front_end_->SetDraining();
    const uint64_t end_ns = MonotonicNs() + drain_timeout_ns_;
    while (Pending() && MonotonicNs() < end_ns) {
      if (StopRequested(10)) {
        LogWarn("second signal: not waiting any longer");
        break;
      }
    }
  }
  // Whatever is left gets its answer now.
  void EndRest(const ServiceSet& services) {
    front_end_->SetClosed();
    if (!Pending()) return;
    const uint64_t copied_ns = MonotonicNs() + kNsPerSecond;
    do {  // at least once: what the front end has just handed over arrives at the scheduler meanwhile
      supervisor_->Poll(10, -1);
    } while (front_end_->Copying() > 0 && MonotonicNs() < copied_ns);
    if (scheduler_->InFlight() == 0) return;
    LogWarn("{} queries did not finish in time; ending them", scheduler_->InFlight());
    for (const ServicePtr& service : services.services()) {
      scheduler_->Post({WorkerEvent::kShutDown, {service->worker, 0}, "the controller is shutting down"});
    }
    supervisor_->KillAll("was still busy at shutdown");
    const uint64_t end_ns = MonotonicNs() + kNsPerSecond;
    while (Pending() && MonotonicNs() < end_ns) supervisor_->Poll(10, -1);
  }

 private:
  bool Pending() const { return scheduler_->InFlight() > 0 || front_end_->InUse() > 0; }
  // True when a signal asks to stop; one that asks for the trace is dealt with.
  bool StopRequested(int timeout_ms) {
    if (!supervisor_->Poll(timeout_ms, signal_fd_)) return false;
    const int signal_number = ConsumeSignal(signal_fd_);
    if (signal_number == SIGUSR1) trace_->Request();
    return signal_number != 0 && signal_number != SIGUSR1;
  }

  const uint64_t drain_timeout_ns_;
  Region* const region_;
  FrontEnd* const front_end_;
  SchedulerLoop* const scheduler_;
  WorkerSupervisor* const supervisor_;
  TraceRequest* const trace_;
  const int signal_fd_;
};

}  // namespace

Status RunServer(const Config& config, uint64_t process_start_ns) {
  RunLock lock;
  ABACUS_RETURN_IF_ERROR(lock.Acquire(config.server.name));
  const fs::path& directory = lock.directory();
  // Before any thread exists, so that all inherit the mask, and before others can find us and send one.
  const int signal_fd = BlockSignals({SIGUSR1});
  const WorkerSupervisor::Settings settings = WorkerSupervisor::SettingsFor(config);
  const ServiceSetPtr services = MakeServiceSet(config, HoldModels(config, settings.needs_model_files()));
  auto region = Region::Create(config.server.name, {config.services.size(), config.worker.gpus.size()},
                               config.server.arena_bytes);
  if (!region) return region.error();
  auto policy = MakePolicy(config.scheduler);
  if (!policy) return policy.error();
  StoreText((*region)->header().policy, config.scheduler.policy);

  QueryTable table(config.limits.max_queries + kRefusalSlots);
  QueryChannel channel(config.limits.max_queries);
  Doorbell scheduler_bell(&(*region)->header().controller_bell);
  Leases leases(config.server.leases ? (directory / "lease.sock").string() : "");
  std::unique_ptr<LeaseSocket> lease_socket;
  if (config.server.leases) {
    LeaseSocket::Limits limits;
    limits.client_bytes = config.limits.max_client_bytes;
    limits.total_bytes = kLeasingClients * config.limits.max_client_bytes;
    limits.total_leases = config.limits.max_clients;
    auto created = LeaseSocket::Create(limits, &leases);
    if (!created) return created.error();
    lease_socket = std::move(*created);
  }
  auto front_end = FrontEnd::Create(config.server, config.limits, services, (directory / "controller.ipc").string(),
                                    region->get(), &table, &channel, &leases, [&] { scheduler_bell.Ring(); });
  if (!front_end) return front_end.error();
  StoreText((*region)->header().endpoint, (*front_end)->endpoints().front());
  WorkerSupervisor supervisor(settings, services, region->get(), FindMpsDaemons(directory, config.worker.gpus.size()));
  SchedulerLoop::Setup setup = SchedulerSetup(config, std::move(*policy));
  setup.region = region->get();
  setup.table = &table;
  setup.channel = &channel;
  setup.control = &supervisor;
  setup.wake_front_end = [&] { (*front_end)->Wake(); };
  SchedulerLoop scheduler(std::move(setup), services);
  supervisor.SetListener(&scheduler);
  TraceRequest trace(SubjectOf(config, *services), &scheduler.trace(), directory / "trace.json");

  std::atomic<bool> stop_front{false}, stop_scheduler{false};
  std::jthread front_thread = NamedThread("front", [&] { (*front_end)->Run(stop_front); });
  std::jthread scheduler_thread = NamedThread("sched", [&] { scheduler.Run(stop_scheduler); });
  for (const std::string& endpoint : (*front_end)->endpoints()) LogInfo("listening on {}", endpoint);
  LogInfo("controller '{}' is up in {:.1f} ms, policy {}; starting {} workers", config.server.name,
          SinceMs(process_start_ns), config.scheduler.policy, config.services.size());
  supervisor.StartAll();
  // While the workers load; they touch the arena only after that.
  Status reserved = (*region)->ReserveArena();
  if (reserved.ok()) {
    (*front_end)->SetArenaReady();
    LogInfo("{} MiB of shared memory reserved after {:.1f} ms", config.server.arena_bytes >> 20,
            SinceMs(process_start_ns));
  } else {
    kill(getpid(), SIGTERM);  // the way out below ends the workers, too
  }

  Serving serving(config, region->get(), front_end->get(), &scheduler, &supervisor, &trace, signal_fd);
  serving.UntilSignal();
  serving.Drain();
  serving.EndRest(*services);
  stop_scheduler.store(true, std::memory_order_release);
  scheduler_bell.Ring();
  scheduler_thread.join();
  // A worker that holds a range back would not see the stop.
  for (size_t i = 0; i < config.worker.gpus.size(); ++i) Gate(&(*region)->lane(LaneId(i)).gate).OpenForGood();
  supervisor.StopAll(kStopTimeoutNs);
  stop_front.store(true, std::memory_order_release);
  (*front_end)->Wake();
  front_thread.join();
  close(signal_fd);
  LogInfo("stopped");
  return reserved;
}

}  // namespace abacus
