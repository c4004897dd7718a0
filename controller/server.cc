#include "controller/server.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "controller/front_end.h"
#include "controller/scheduler_loop.h"
#include "controller/worker_supervisor.h"
#include "shm/clock.h"
#include "shm/log.h"
#include "shm/region.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kStopTimeoutNs = 5 * kNsPerSecond;
constexpr int kPollMs = 500;
constexpr uint32_t kRefusalSlots = 4096;  // for errors on their way out, beside the accepted queries

// The run directory of this controller, locked for as long as the object lives: a second controller of the same name
// is refused, and the kernel releases the lock when we die, however we die.
class RunLock {
 public:
  ~RunLock() {
    if (fd_ >= 0) close(fd_);
  }
  Status Acquire(const fs::path& directory, const std::string& name) {
    const fs::path path = directory / "controller.lock";
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) return {StatusCode::kUnavailable, "cannot open " + path.string() + ": " + strerror(errno)};
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      char pid[32] = {};
      [[maybe_unused]] const ssize_t got = pread(fd_, pid, sizeof(pid) - 1, 0);
      return {StatusCode::kAlreadyExists, "a controller named '" + name + "' runs already (pid " + std::string(pid) +
                                              "); stop it or choose another [server] name"};
    }
    const std::string pid = std::to_string(getpid());
    if (ftruncate(fd_, 0) != 0 || pwrite(fd_, pid.data(), pid.size(), 0) < 0) {
      return {StatusCode::kUnavailable, "cannot write " + path.string() + ": " + strerror(errno)};
    }
    return Status::Ok();
  }

 private:
  int fd_ = -1;
};

DeviceKind ResolveDevice(DeviceKind configured, const fs::path& bin_dir) {
  if (configured != DeviceKind::kAuto) return configured;
  const bool gpu = access("/dev/nvidiactl", F_OK) == 0;
  const bool built = fs::exists(bin_dir / "libabacus_cuda_runtime.so");
  if (gpu && !built) spdlog::warn("a GPU is here, but Abacus was built without CUDA; using the CPU");
  return gpu && built ? DeviceKind::kCuda : DeviceKind::kCpu;
}

int BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

void ConsumeSignal(int fd) {
  signalfd_siginfo info;
  [[maybe_unused]] const ssize_t got = read(fd, &info, sizeof(info));
}

}  // namespace

Status RunServer(const Config& config, uint64_t process_start_ns) {
  auto run_dir = RunDirectory();
  if (!run_dir) return run_dir.error();
  const fs::path directory = *run_dir / config.server.name;
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return {StatusCode::kUnavailable, "cannot create " + directory.string() + ": " + error.message()};
  RunLock lock;
  ABACUS_RETURN_IF_ERROR(lock.Acquire(directory, config.server.name));
  auto region = Region::Create(config.server.name, config.services.size(), config.server.arena_bytes);
  if (!region) return region.error();
  auto policy = MakePolicy(config.scheduler.policy);
  if (!policy) return policy.error();
  StoreText((*region)->header().policy, config.scheduler.policy);

  const int signal_fd = BlockSignals();  // before any thread exists, so that all inherit the mask
  const fs::path bin_dir = fs::read_symlink("/proc/self/exe", error).parent_path();
  const DeviceKind device = ResolveDevice(config.worker.device, bin_dir);
  QueryTable table(config.limits.max_queries + kRefusalSlots);
  QueryChannel channel(config.limits.max_queries);
  Doorbell scheduler_bell(&(*region)->header().controller_bell);
  auto front_end = FrontEnd::Create(config, (directory / "controller.ipc").string(), region->get(), &table, &channel,
                                    [&] { scheduler_bell.Ring(); });
  if (!front_end) return front_end.error();
  StoreText((*region)->header().endpoint, (*front_end)->endpoints().front());
  WorkerSupervisor supervisor(config, device, bin_dir, region->get());
  SchedulerLoop scheduler(config, region->get(), &table, &channel, std::move(*policy), &supervisor,
                          [&] { (*front_end)->Wake(); });
  supervisor.SetScheduler(&scheduler);

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
  while (!supervisor.Poll(kPollMs, signal_fd)) {
  }
  ConsumeSignal(signal_fd);

  spdlog::info("draining: {} queries in flight", scheduler.InFlight());
  (*region)->header().draining.store(1, std::memory_order_release);
  (*front_end)->SetDraining();
  const uint64_t drain_end_ns = MonotonicNs() + config.server.drain_timeout_ns;
  const auto pending = [&] { return scheduler.InFlight() > 0 || (*front_end)->InUse() > 0; };
  while (pending() && MonotonicNs() < drain_end_ns) {
    if (supervisor.Poll(10, signal_fd)) {
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
  supervisor.StopAll(kStopTimeoutNs);
  stop_front.store(true, std::memory_order_release);
  (*front_end)->Wake();
  front_thread.join();
  close(signal_fd);
  spdlog::info("stopped");
  return reserved;
}

}  // namespace abacus
