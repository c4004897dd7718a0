#include "controller/workers/worker_process.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/process.h"
#include "controller/workers/subprocess.h"

namespace abacus {

WorkerProcess::~WorkerProcess() {
  Signal(SIGKILL);
  Forget();
}

Status WorkerProcess::Start(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);  // our signals are blocked for the signalfd; the child's must not be
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const std::vector<std::string> settings = EnvironmentWith(environment);
  const int error =
      posix_spawn(&pid_, command[0].c_str(), nullptr, &attributes, Pointers(command).data(), Pointers(settings).data());
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    pid_ = -1;
    return {StatusCode::kUnavailable, "cannot run " + command[0] + ": " + std::strerror(error)};
  }
  exit_fd_ = OpenPidFd(pid_);
  return Status::Ok();
}

void WorkerProcess::Signal(int signal_number) const {
  if (alive()) kill(pid_, signal_number);
}

std::optional<int> WorkerProcess::Reap() {
  int exit_status = 0;
  if (!alive() || waitpid(pid_, &exit_status, WNOHANG) != pid_) return std::nullopt;
  Forget();
  return exit_status;
}

void WorkerProcess::Forget() {
  if (exit_fd_ >= 0) close(exit_fd_);
  pid_ = exit_fd_ = -1;
}

}  // namespace abacus
