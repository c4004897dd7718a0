#include "controller/workers/worker_supervisor.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
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

}  // namespace

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
    if (worker.service != nullptr) Spawn(worker);
  }
}

void WorkerSupervisor::Publish(const ServiceSetPtr& services) {
  TakeOver(*services);
  for (Worker& worker : workers_) {
    if (worker.service != nullptr && worker.generation == 0 && !stopping_) Spawn(worker);
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
  return command;
}

void WorkerSupervisor::Spawn(Worker& worker) {
  const Service& service = *worker.service;
  ++worker.generation;
  worker.condemned.clear();
  WorkerSlot& slot = region_->worker(service.worker);
  slot.service = service.id.value();
  slot.lane = service.lane.value();
  slot.generation.store(worker.generation, std::memory_order_relaxed);
  slot.bucket_count = static_cast<uint32_t>(service.config.spec.bucket_count());
  StoreText(slot.error, "");
  slot.heartbeat_ns.store(0, std::memory_order_relaxed);
  slot.state.store(static_cast<uint32_t>(WorkerState::kStarting), std::memory_order_release);

  const MpsDaemon* const daemon = DaemonOf(worker);
  const Status started =
      worker.process.Start(CommandLine(worker), daemon != nullptr ? daemon->environment() : std::vector<std::string>());
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
  return fds[kMaxWorkers + 1].revents != 0;
}

void WorkerSupervisor::CheckLoaded(Worker& worker, uint64_t now_ns) {
  const auto state =
      static_cast<WorkerState>(region_->worker(worker.service->worker).state.load(std::memory_order_acquire));
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
    if (static_cast<WorkerState>(slot.state.load(std::memory_order_acquire)) == WorkerState::kFailed) {
      why += ": " + LoadText(slot.error);
    }
  }
  if (!stopping_) LogError("{}", why);
  worker.phase = Phase::kReleasing;
  slot.pid.store(0, std::memory_order_relaxed);
  listener_->Post({WorkerEvent::kDown, worker.ref(), why});
}

void WorkerSupervisor::Restart(Worker& worker, uint64_t now_ns) {
  const uint32_t most = settings_.worker.max_restarts_per_minute;
  if (stopping_ || most == 0) {
    worker.phase = Phase::kStopped;
    if (!stopping_) GiveUp(worker, worker.name() + " is down: its worker ended, and max_restarts_per_minute is 0");
    return;
  }
  worker.phase = Phase::kWaiting;
  worker.spawn_at_ns = worker.restarts.Next(now_ns, most);
  if (worker.spawn_at_ns > now_ns) {
    const std::string last = LoadText(region_->worker(worker.service->worker).error);
    GiveUp(worker, worker.name() + " is down: its worker ended " + std::to_string(worker.restarts.recent()) +
                       " times within a minute; next try in " +
                       std::to_string((worker.spawn_at_ns - now_ns) / kNsPerSecond) + " s" +
                       (last.empty() ? "" : ". Last error: " + last));
  }
  BumpOwned(region_->service(worker.service->id).stats.restarts);
}

void WorkerSupervisor::GiveUp(Worker& worker, const std::string& why) {
  LogError("{}", why);
  WorkerSlot& slot = region_->worker(worker.service->worker);
  StoreText(slot.error, why);
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
