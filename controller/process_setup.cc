#include "controller/process_setup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "shm/log.h"

namespace abacus {

namespace fs = std::filesystem;

RunLock::~RunLock() {
  if (fd_ >= 0) close(fd_);
}

Status RunLock::Acquire(const std::string& name) {
  auto run_dir = RunDirectory();
  if (!run_dir) return run_dir.error();
  directory_ = *run_dir / name;
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) return {StatusCode::kUnavailable, "cannot create " + directory_.string() + ": " + error.message()};
  const fs::path path = directory_ / "controller.lock";
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

fs::path ProgramDirectory() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

DeviceKind ResolveDevice(DeviceKind configured, const fs::path& bin_dir) {
  if (configured != DeviceKind::kAuto) return configured;
  const bool gpu = access("/dev/nvidiactl", F_OK) == 0;
  const bool built = fs::exists(bin_dir / "libabacus_cuda_runtime.so");
  if (gpu && !built) spdlog::warn("a GPU is here, but Abacus was built without CUDA; using the CPU");
  return gpu && built ? DeviceKind::kCuda : DeviceKind::kCpu;
}

int BlockSignals(std::initializer_list<int> others) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  for (const int other : others) sigaddset(&signals, other);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int ConsumeSignal(int fd) {
  signalfd_siginfo info;
  return read(fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info)) ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace abacus
