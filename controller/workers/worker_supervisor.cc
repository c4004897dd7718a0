#include "controller/workers/worker_supervisor.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "controller/workers/device.h"
#include "shm/doorbell.h"

namespace abacus {
namespace {

constexpr uint64_t kKillTimeoutNs = 5 * kNsPerSecond;
constexpr int kLoadingPollMs = 10;  // how often a loading worker's state is looked at
constexpr int kStoppingPollMs = 100;

std::string DescribeExit(int exit_status) {
  if (WIFSIGNALED(exit_status)) {
    const int signal_number = WTERMSIG(exit_status);
    return "was killed by signal " + std::to_string(signal_number) + " (" + strsignal(signal_number) + ")";
  }
  return "exited with code " + std::to_string(WEXITSTATUS(exit_status));
}

// What a worker whose model would be refused the next time, too, reports while it loads.
bool IsRefusal(StatusCode code) { return code == StatusCode::kInvalidArgument || code == StatusCode::kNotFound; }

StatusCode CodeOf(const WorkerSlot& slot) {
  const uint32_t code = slot.error_code.load(std::memory_order_relaxed);
  return code < kStatusCodeNames.size() ? static_cast<StatusCode>(code) : StatusCode::kWorkerFailed;
}

}  // namespace

WorkerSupervisor::Settings WorkerSupervisor::SettingsFor(const Config& config) {
  const std::filesystem::path bin_dir = ProgramDirectory();
  return {.worker = config.worker,
          .name = config.server.name,
          .log_level = config.server.log_level,
          .spin_us = config.scheduler.spin_us,
          .device = ResolveDevice(config.worker.device, bin_dir),
          .bin_dir = bin_dir};
}

WorkerSupervisor::WorkerSupervisor(Settings settings, const ServiceSetPtr& services, Region* region,
                                   std::vector<std::unique_ptr<MpsDaemon>> daemons)
    : settings_(std::move(settings)), region_(region), daemons_(std::move(daemons)) {
  for (size_t lane = 0; lane < settings_.worker.gpus.size(); ++lane) {
    StoreText(region_->lane(LaneId(lane)).gpu, settings_.worker.gpus[lane]);
  }
  TakeOver(*services);
}

void WorkerSupervisor::TakeOver(const ServiceSet& services) {
  for (const ServicePtr& service : services.services()) {
    Worker& worker = workers_[service->worker.value()];
    if (worker.service == nullptr) {
      ServiceBlock& block = region_->service(service->id);
      StoreText(block.name, service->config.name);
      block.worker.store(service->worker.value(), std::memory_order_relaxed);
    }
    worker.service = service;
  }
  region_->SetServiceCount(services.services().size());
}

void WorkerSupervisor::StartAll() {
  for (Worker& worker : workers_) {
    if (worker.service != nullptr) StartService(worker);
  }
}

void WorkerSupervisor::Publish(const ServiceSetPtr& services) {
  TakeOver(*services);
  for (Worker& worker : workers_) {
    if (worker.service != nullptr && worker.generation == 0 && !stopping_) StartService(worker);
  }
}

void WorkerSupervisor::StartService(Worker& worker) {
  const Status& refusal = worker.service->refusal;
  if (refusal.ok()) {
    Spawn(worker);
  } else {
    worker.generation = 1;
    StayDown(worker, refusal.code(), refusal.message());
  }
}

const MpsDaemon* WorkerSupervisor::DaemonOf(const Worker& worker) const {
  const bool needed = settings_.device == DeviceKind::kCuda && settings_.worker.mps;
  return needed ? daemons_.at(worker.service->lane.value()).get() : nullptr;
}

std::vector<std::string> WorkerSupervisor::CommandLine(const Worker& worker) const {
  const WorkerConfig& config = settings_.worker;
  const Service& service = *worker.service;
  const MpsDaemon* const daemon = DaemonOf(worker);
  const bool first_gpu = daemon != nullptr && daemon->has_one_gpu();
  const char* const program = settings_.device == DeviceKind::kFake ? "abacus-fake-worker" : "abacus-worker";
  std::vector<std::string> command = {(settings_.bin_dir / program).string(),
                                      "serve",
                                      "--segment",
                                      settings_.name,
                                      "--worker",
                                      std::to_string(service.worker.value()),
                                      "--model",
                                      service.config.spec.toml_path.string(),
                                      "--device",
                                      std::string(NameOf(settings_.device)),
                                      "--gpu",
                                      first_gpu ? "0" : config.gpus.at(service.lane.value()),
                                      "--cpu-threads",
                                      std::to_string(config.cpu_threads),
                                      "--spin-us",
                                      std::to_string(settings_.spin_us),
                                      "--gate",
                                      config.gate,
                                      "--log-level",
                                      settings_.log_level};
  if (config.gpu_timestamps) command.emplace_back("--gpu-timestamps");
  if (service.held != nullptr) command.insert(command.end(), {"--digest", service.held->digest()});
  return command;
}

void WorkerSupervisor::Spawn(Worker& worker) {
  const Service& service = *worker.service;
  ++worker.generation;
  worker.condemned.clear();
  worker.refused = worker.measures = false;
  WorkerSlot& slot = region_->worker(service.worker);
  slot.service = service.id.value();
  slot.lane = service.lane.value();
  slot.generation.store(worker.generation, std::memory_order_relaxed);
  slot.bucket_count = static_cast<uint32_t>(service.config.spec.bucket_count());
  StoreText(slot.error, "");
  slot.error_code.store(0, std::memory_order_relaxed);
  slot.heartbeat_ns.store(0, std::memory_order_relaxed);
  slot.state.store(static_cast<uint32_t>(WorkerState::kStarting), std::memory_order_release);

  const MpsDaemon* const daemon = DaemonOf(worker);
  const Status started =
      worker.process.Start(CommandLine(worker), daemon != nullptr ? daemon->environment() : std::vector<std::string>(),
                           service.held != nullptr ? service.held->descriptors() : std::vector<int>());
  if (!started.ok()) {
    LogError("{}", started.message());
    StoreText(slot.error, started.message());
    worker.phase = Phase::kReleasing;
    listener_->Post({WorkerEvent::kDown, worker.ref(), started.message()});
    return;
  }
  worker.phase = Phase::kLoading;
  worker.load_deadline_ns = MonotonicNs() + settings_.worker.load_timeout_ns;
  slot.pid.store(worker.process.pid(), std::memory_order_relaxed);
}

bool WorkerSupervisor::Poll(int timeout_ms, int extra_fd) {
  std::array<pollfd, kMaxWorkers + 2> fds;
  fds[kMaxWorkers] = {waker_.fd(), POLLIN, 0};
  fds[kMaxWorkers + 1] = {extra_fd, POLLIN, 0};
  for (size_t i = 0; i < kMaxWorkers; ++i) {
    const Worker& worker = workers_[i];
    fds[i] = {worker.process.exit_fd(), POLLIN, 0};  // poll ignores negative descriptors
    if (worker.service == nullptr) continue;
    if (worker.phase == Phase::kLoading || worker.phase == Phase::kWaiting) {
      timeout_ms = std::min(timeout_ms, kLoadingPollMs);
    }
  }
  waker_.PrepareSleep();
  poll(fds.data(), fds.size(), orders_.empty() ? timeout_ms : 0);
  waker_.FinishSleep();

  for (size_t i = 0; i < kMaxWorkers; ++i) {
    if (fds[i].revents != 0) Reap(workers_[i]);
  }
  HandleOrders();
  const uint64_t now_ns = MonotonicNs();
  for (Worker& worker : workers_) {
    if (worker.service == nullptr) continue;
    if (worker.phase == Phase::kLoading) CheckLoaded(worker, now_ns);
    if (worker.phase == Phase::kWaiting && !stopping_ && now_ns >= worker.spawn_at_ns) Spawn(worker);
  }
  GiveTurns(now_ns);
  return fds[kMaxWorkers + 1].revents != 0;
}

WorkerState WorkerSupervisor::StateOf(const Worker& worker) const {
  return static_cast<WorkerState>(region_->worker(worker.service->worker).state.load(std::memory_order_acquire));
}

void WorkerSupervisor::GiveTurns(uint64_t now_ns) {
  if (stopping_) return;
  std::vector<MeasuringTurns::Loading> loading;
  for (const Worker& worker : workers_) {
    if (worker.service == nullptr || worker.phase != Phase::kLoading) continue;
    const size_t device = settings_.device == DeviceKind::kCuda ? worker.service->lane.value() : 0;
    loading.push_back({worker.ref(), device, StateOf(worker) == WorkerState::kAwaitsTurn});
  }
  Command measure;
  measure.kind = Command::kMeasure;
  for (const WorkerRef& next : turns_.Begin(loading, now_ns)) {
    Worker& worker = workers_[next.id.value()];
    WorkerSlot& slot = region_->worker(next.id);
    worker.measures = true;
    worker.load_deadline_ns = now_ns + settings_.worker.load_timeout_ns;
    if (slot.commands.TryPush(measure)) {
      Doorbell(&slot.command_bell).Ring();
    } else {
      Kill(worker, "does not take its turn to measure: its ring is damaged");
    }
  }
}

void WorkerSupervisor::CheckLoaded(Worker& worker, uint64_t now_ns) {
  const WorkerState state = StateOf(worker);
  if (state == WorkerState::kLoaded) {
    if (const MpsDaemon* const daemon = DaemonOf(worker)) {
      const auto attached = daemon->IsClient(worker.process.pid());
      if (!attached || !*attached) {
        Kill(worker, attached ? "runs without CUDA MPS: the MPS daemon does not list it as a client"
                              : "cannot be checked for CUDA MPS: " + attached.error().message() +
                                    " (set [worker] mps = false to serve without MPS)");
        return;
      }
    }
    worker.phase = Phase::kServing;
    LogInfo("service {} is ready (worker pid {})", worker.name(), worker.process.pid());
    listener_->Post({WorkerEvent::kUp, worker.ref(), {}});
  } else if (state == WorkerState::kAwaitsTurn && !worker.measures) {
    return;  // for others, each of which has a deadline
  } else if (now_ns > worker.load_deadline_ns) {
    Kill(worker, "did not load its model within load_timeout_s");
  }
}

void WorkerSupervisor::Kill(Worker& worker, const std::string& why) {
  if (!worker.process.alive() || !worker.condemned.empty()) return;
  worker.condemned = why;
  LogWarn("worker of {} (pid {}) {}; ending it", worker.name(), worker.process.pid(), why);
  if (const MpsDaemon* const daemon = DaemonOf(worker)) {
    if (const Status status = daemon->Terminate(worker.process.pid()); !status.ok()) LogWarn("{}", status.message());
  }
  worker.process.Signal(SIGKILL);
}

void WorkerSupervisor::Reap(Worker& worker) {
  const pid_t pid = worker.process.pid();
  const std::optional<int> exit_status = worker.process.Reap();
  if (!exit_status) return;
  WorkerSlot& slot = region_->worker(worker.service->worker);
  std::string why = "the worker of " + worker.name() + " (pid " + std::to_string(pid) + ") ";
  if (!worker.condemned.empty()) {
    why += worker.condemned + " and was ended";
  } else {
    why += DescribeExit(*exit_status);
    if (StateOf(worker) == WorkerState::kFailed) {
      why += ": " + LoadText(slot.error);
      worker.refused = worker.phase == Phase::kLoading && IsRefusal(CodeOf(slot));
    }
  }
  if (!stopping_) LogError("{}", why);
  worker.phase = Phase::kReleasing;
  slot.pid.store(0, std::memory_order_relaxed);
  listener_->Post({WorkerEvent::kDown, worker.ref(), why});
}

void WorkerSupervisor::Restart(Worker& worker, uint64_t now_ns) {
  const uint32_t most = settings_.worker.max_restarts_per_minute;
  const WorkerSlot& slot = region_->worker(worker.service->worker);
  if (stopping_) {
    worker.phase = Phase::kStopped;
    return;
  }
  if (worker.refused) {
    StayDown(worker, CodeOf(slot), LoadText(slot.error));
    return;
  }
  if (most == 0) {
    worker.phase = Phase::kStopped;
    GiveUp(worker, StatusCode::kWorkerFailed,
           worker.name() + " is down: its worker ended, and max_restarts_per_minute is 0");
    return;
  }
  worker.phase = Phase::kWaiting;
  worker.spawn_at_ns = worker.restarts.Next(now_ns, most);
  if (worker.spawn_at_ns > now_ns) {
    const std::string last = LoadText(slot.error);
    GiveUp(worker, StatusCode::kWorkerFailed,
           worker.name() + " is down: its worker ended " + std::to_string(worker.restarts.recent()) +
               " times within a minute; next try in " + std::to_string((worker.spawn_at_ns - now_ns) / kNsPerSecond) +
               " s" + (last.empty() ? "" : ". Last error: " + last));
  }
  BumpOwned(region_->service(worker.service->id).stats.restarts);
}

void WorkerSupervisor::StayDown(Worker& worker, StatusCode code, const std::string& reason) {
  worker.phase = Phase::kStopped;
  GiveUp(worker, code,
         worker.name() + " is down; once its model is mended (exported again), restart the controller: " + reason);
}

void WorkerSupervisor::GiveUp(Worker& worker, StatusCode code, const std::string& why) {
  LogError("{}", why);
  WorkerSlot& slot = region_->worker(worker.service->worker);
  StoreText(slot.error, why);
  slot.error_code.store(static_cast<uint32_t>(code), std::memory_order_relaxed);
  slot.state.store(static_cast<uint32_t>(WorkerState::kFailed), std::memory_order_release);
  listener_->Post({WorkerEvent::kGaveUp, worker.ref(), why});
}

void WorkerSupervisor::SlotReleased(WorkerRef worker) {
  orders_.Post({Order::kReleased, worker, {}});
  waker_.Wake();
}

void WorkerSupervisor::Condemn(WorkerRef worker, const std::string& why) {
  orders_.Post({Order::kCondemn, worker, why});
  waker_.Wake();
}

void WorkerSupervisor::HandleOrders() {
  for (const Order& order : orders_.Take()) {
    Worker& worker = workers_[order.worker.id.value()];
    if (worker.service == nullptr || worker.generation != order.worker.generation) continue;  // its process is history
    if (order.kind == Order::kCondemn) {
      Kill(worker, order.why);
    } else if (worker.phase == Phase::kReleasing) {
      Restart(worker, MonotonicNs());
    }
  }
}

void WorkerSupervisor::KillAll(const std::string& why) {
  stopping_ = true;
  for (Worker& worker : workers_) Kill(worker, why);
}

bool WorkerSupervisor::PollUntilAllEnded(uint64_t timeout_ns) {
  const uint64_t end_ns = MonotonicNs() + timeout_ns;
  const auto alive = [](const Worker& worker) { return worker.process.alive(); };
  while (std::any_of(workers_.begin(), workers_.end(), alive)) {
    if (MonotonicNs() >= end_ns) return false;
    Poll(kStoppingPollMs, -1);
  }
  return true;
}

void WorkerSupervisor::StopAll(uint64_t timeout_ns) {
  stopping_ = true;
  Command stop;
  stop.kind = Command::kStop;
  for (Worker& worker : workers_) {
    if (!worker.process.alive()) continue;
    WorkerSlot& slot = region_->worker(worker.service->worker);
    if (worker.phase != Phase::kServing || !slot.commands.TryPush(stop)) {
      worker.process.Signal(SIGTERM);  // still loading: it does not read its ring yet
    } else {
      Doorbell(&slot.command_bell).Ring();
    }
  }
  PollUntilAllEnded(timeout_ns);
  for (Worker& worker : workers_) Kill(worker, "did not stop in time");
  if (!PollUntilAllEnded(kKillTimeoutNs)) {
    LogError("a worker does not end even when killed (stuck in the driver?); leaving it behind");
  }
}

}  // namespace abacus
