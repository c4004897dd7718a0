#include "controller/worker_supervisor.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "shm/clock.h"
#include "shm/doorbell.h"
#include "shm/log.h"
#include "shm/process.h"

extern char** environ;

namespace abacus {
namespace {

constexpr uint64_t kRestartWindowNs = 60 * kNsPerSecond;
constexpr uint64_t kKillTimeoutNs = 5 * kNsPerSecond;
constexpr int kLoadingPollMs = 10;  // how often a loading worker's state is looked at

const char* DeviceArgument(DeviceKind device) {
  switch (device) {
    case DeviceKind::kCuda:
      return "cuda";
    case DeviceKind::kFake:
      return "fake";
    default:
      return "cpu";
  }
}

}  // namespace

WorkerSupervisor::WorkerSupervisor(const Config& config, DeviceKind device, std::filesystem::path bin_dir,
                                   Region* region)
    : config_(config),
      device_(device),
      bin_dir_(std::move(bin_dir)),
      region_(region),
      workers_(config.services.size()) {}

WorkerSupervisor::~WorkerSupervisor() {
  for (Worker& worker : workers_) {
    if (worker.pid > 0) kill(worker.pid, SIGKILL);  // StopAll has not run: we leave on an error
    if (worker.pid_fd >= 0) close(worker.pid_fd);
  }
}

std::vector<std::string> WorkerSupervisor::CommandLine(uint32_t index) const {
  const WorkerConfig& worker = config_.worker;
  const bool fake = device_ == DeviceKind::kFake;
  std::vector<std::string> command = {(bin_dir_ / (fake ? "abacus-fake-worker" : "abacus-worker")).string(),
                                      "serve",
                                      "--segment",
                                      config_.server.name,
                                      "--index",
                                      std::to_string(index),
                                      "--model",
                                      config_.services[index].spec.toml_path.string(),
                                      "--device",
                                      DeviceArgument(device_),
                                      "--gpu",
                                      std::to_string(worker.gpu),
                                      "--cpu-threads",
                                      std::to_string(worker.cpu_threads),
                                      "--spin-us",
                                      std::to_string(config_.scheduler.spin_us),
                                      "--gate",
                                      worker.gate,
                                      "--log-level",
                                      config_.server.log_level};
  if (worker.gpu_timestamps) command.push_back("--gpu-timestamps");
  return command;
}

void WorkerSupervisor::StartAll() {
  for (uint32_t i = 0; i < workers_.size(); ++i) Spawn(i);
}

void WorkerSupervisor::Spawn(uint32_t index) {
  Worker& worker = workers_[index];
  WorkerBlock& block = region_->worker(index);
  StoreText(block.service, config_.services[index].name);
  StoreText(block.error, "");
  ++block.incarnation;
  block.bucket_count = static_cast<uint32_t>(config_.services[index].spec.bucket_count());
  block.heartbeat_ns.store(0, std::memory_order_relaxed);
  block.state.store(static_cast<uint32_t>(WorkerState::kStarting), std::memory_order_release);

  const std::vector<std::string> command = CommandLine(index);
  std::vector<char*> args;
  for (const std::string& arg : command) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);  // our signals are blocked for the signalfd; the worker's must not be
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const int error = posix_spawn(&worker.pid, args[0], nullptr, &attributes, args.data(), environ);
  posix_spawnattr_destroy(&attributes);
  const uint64_t now_ns = MonotonicNs();
  worker.condemned.clear();
  if (error != 0) {
    worker.pid = -1;
    const std::string why = "cannot run " + command[0] + ": " + std::strerror(error);
    spdlog::error("{}", why);
    StoreText(block.error, why);
    worker.phase = Phase::kReleasing;
    listener_->Post({WorkerEvent::kDown, index, why});
    return;
  }
  worker.pid_fd = OpenPidFd(worker.pid);
  worker.phase = Phase::kLoading;
  worker.load_deadline_ns = now_ns + config_.worker.load_timeout_ns;
  block.pid.store(worker.pid, std::memory_order_relaxed);
}

bool WorkerSupervisor::Poll(int timeout_ms, int extra_fd) {
  std::vector<pollfd> fds = {{waker_.fd(), POLLIN, 0}, {extra_fd, POLLIN, 0}};
  for (const Worker& worker : workers_) {
    fds.push_back({worker.pid_fd, POLLIN, 0});  // poll ignores negative descriptors
    if (worker.phase == Phase::kLoading || worker.phase == Phase::kWaiting) {
      timeout_ms = std::min(timeout_ms, kLoadingPollMs);
    }
  }
  waker_.PrepareSleep();
  bool orders = false;
  {
    const std::lock_guard lock(orders_mutex_);
    orders = !orders_.empty();
  }
  poll(fds.data(), fds.size(), orders ? 0 : timeout_ms);
  waker_.FinishSleep();

  for (uint32_t i = 0; i < workers_.size(); ++i) {
    if (fds[i + 2].revents != 0) Reap(i);
  }
  HandleOrders();
  const uint64_t now_ns = MonotonicNs();
  for (uint32_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].phase == Phase::kLoading) CheckLoaded(i, now_ns);
    if (workers_[i].phase == Phase::kWaiting && !stopping_ && now_ns >= workers_[i].spawn_at_ns) Spawn(i);
  }
  return fds[1].revents != 0;
}

void WorkerSupervisor::CheckLoaded(uint32_t index, uint64_t now_ns) {
  Worker& worker = workers_[index];
  const auto state = static_cast<WorkerState>(region_->worker(index).state.load(std::memory_order_acquire));
  const std::string& name = config_.services[index].name;
  if (state == WorkerState::kLoaded) {
    if (device_ == DeviceKind::kCuda && config_.worker.mps) {
      const auto attached = mps_.IsClient(worker.pid);
      if (!attached || !*attached) {
        Kill(index, attached ? "runs without CUDA MPS: the MPS daemon does not list it as a client"
                             : "cannot be checked for CUDA MPS: " + attached.error().message() +
                                   " (set [worker] mps = false to serve without MPS)");
        return;
      }
    }
    worker.phase = Phase::kServing;
    spdlog::info("service {} is ready (worker pid {})", name, worker.pid);
    listener_->Post({WorkerEvent::kUp, index, {}});
  } else if (now_ns > worker.load_deadline_ns) {
    Kill(index, "did not load its model within load_timeout_s");
  }
}

void WorkerSupervisor::Kill(uint32_t index, const std::string& why) {
  Worker& worker = workers_[index];
  if (worker.pid <= 0 || !worker.condemned.empty()) return;
  worker.condemned = why;
  spdlog::warn("worker of {} (pid {}) {}; ending it", config_.services[index].name, worker.pid, why);
  if (device_ == DeviceKind::kCuda && config_.worker.mps) {
    if (const Status status = mps_.Terminate(worker.pid); !status.ok()) spdlog::warn("{}", status.message());
  }
  kill(worker.pid, SIGKILL);
}

void WorkerSupervisor::Reap(uint32_t index) {
  Worker& worker = workers_[index];
  int exit_status = 0;
  if (worker.pid <= 0 || waitpid(worker.pid, &exit_status, WNOHANG) != worker.pid) return;
  const std::string why = DescribeExit(index, exit_status);
  if (!stopping_) spdlog::error("{}", why);
  close(worker.pid_fd);
  worker.pid_fd = -1;
  worker.pid = -1;
  worker.phase = Phase::kReleasing;
  region_->worker(index).pid.store(0, std::memory_order_relaxed);
  listener_->Post({WorkerEvent::kDown, index, why});
}

std::string WorkerSupervisor::DescribeExit(uint32_t index, int exit_status) const {
  const Worker& worker = workers_[index];
  const WorkerBlock& block = region_->worker(index);
  std::string text = "the worker of " + config_.services[index].name + " (pid " + std::to_string(worker.pid) + ") ";
  if (!worker.condemned.empty()) return text + worker.condemned + " and was ended";
  if (WIFSIGNALED(exit_status)) {
    text +=
        "was killed by signal " + std::to_string(WTERMSIG(exit_status)) + " (" + strsignal(WTERMSIG(exit_status)) + ")";
  } else {
    text += "exited with code " + std::to_string(WEXITSTATUS(exit_status));
  }
  if (static_cast<WorkerState>(block.state.load(std::memory_order_acquire)) == WorkerState::kFailed) {
    text += ": " + LoadText(block.error);
  }
  return text;
}

void WorkerSupervisor::Restart(uint32_t index, uint64_t now_ns) {
  Worker& worker = workers_[index];
  if (stopping_) {
    worker.phase = Phase::kStopped;
    return;
  }
  while (!worker.restarts_ns.empty() && worker.restarts_ns.front() + kRestartWindowNs < now_ns) {
    worker.restarts_ns.pop_front();
  }
  if (config_.worker.max_restarts_per_minute == 0) {
    worker.phase = Phase::kStopped;
    GiveUp(index, config_.services[index].name + " is down: its worker ended, and max_restarts_per_minute is 0");
    return;
  }
  worker.phase = Phase::kWaiting;
  worker.spawn_at_ns = now_ns;
  if (worker.restarts_ns.size() >= config_.worker.max_restarts_per_minute) {
    worker.spawn_at_ns = worker.restarts_ns.front() + kRestartWindowNs;
    const std::string last = LoadText(region_->worker(index).error);
    GiveUp(index, config_.services[index].name + " is down: its worker ended " +
                      std::to_string(worker.restarts_ns.size() + 1) + " times within a minute; next try in " +
                      std::to_string((worker.spawn_at_ns - now_ns) / kNsPerSecond) + " s" +
                      (last.empty() ? "" : ". Last error: " + last));
  }
  worker.restarts_ns.push_back(worker.spawn_at_ns);
  BumpOwned(region_->worker(index).stats.restarts);
}

void WorkerSupervisor::GiveUp(uint32_t index, const std::string& why) {
  spdlog::error("{}", why);
  WorkerBlock& block = region_->worker(index);
  StoreText(block.error, why);
  block.state.store(static_cast<uint32_t>(WorkerState::kFailed), std::memory_order_release);
  listener_->Post({WorkerEvent::kGaveUp, index, why});
}

void WorkerSupervisor::BlockReleased(uint32_t worker) {
  {
    const std::lock_guard lock(orders_mutex_);
    orders_.push_back({Order::kReleased, worker, {}});
  }
  waker_.Wake();
}

void WorkerSupervisor::Condemn(uint32_t worker, const std::string& why) {
  {
    const std::lock_guard lock(orders_mutex_);
    orders_.push_back({Order::kCondemn, worker, why});
  }
  waker_.Wake();
}

void WorkerSupervisor::HandleOrders() {
  std::vector<Order> orders;
  {
    const std::lock_guard lock(orders_mutex_);
    orders.swap(orders_);
  }
  for (const Order& order : orders) {
    if (order.kind == Order::kReleased) {
      if (workers_[order.worker].phase == Phase::kReleasing) Restart(order.worker, MonotonicNs());
    } else {
      Kill(order.worker, order.why);
    }
  }
}

void WorkerSupervisor::KillAll(const std::string& why) {
  stopping_ = true;
  for (uint32_t i = 0; i < workers_.size(); ++i) Kill(i, why);
}

void WorkerSupervisor::StopAll(uint64_t timeout_ns) {
  stopping_ = true;
  Command stop;
  stop.kind = Command::kStop;
  for (uint32_t i = 0; i < workers_.size(); ++i) {
    if (workers_[i].pid <= 0) continue;
    WorkerBlock& block = region_->worker(i);
    if (workers_[i].phase != Phase::kServing || !block.commands.TryPush(stop)) {
      kill(workers_[i].pid, SIGTERM);  // still loading: it does not read its ring yet
    } else {
      Doorbell(&block.command_bell).Ring();
    }
  }
  const uint64_t deadline_ns = MonotonicNs() + timeout_ns;
  const auto any_alive = [&] {
    return std::any_of(workers_.begin(), workers_.end(), [](const Worker& worker) { return worker.pid > 0; });
  };
  while (any_alive() && MonotonicNs() < deadline_ns) Poll(100, -1);
  for (uint32_t i = 0; i < workers_.size(); ++i) Kill(i, "did not stop in time");
  const uint64_t killed_ns = MonotonicNs();
  while (any_alive() && MonotonicNs() < killed_ns + kKillTimeoutNs) Poll(100, -1);
  if (any_alive()) spdlog::error("a worker does not end even when killed (stuck in the driver?); leaving it behind");
}

}  // namespace abacus
