#include "controller/workers/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/process.h"
#include "controller/workers/subprocess.h"
#include "models/held_model.h"

namespace abacus {
namespace {

// Descriptors that a new process gets in places of its own, out of copies that lie in nobody's place: where one of ours
// lies where another one is to go, it would be overwritten before its turn; and one that lies in its own place already
// would keep the flag that closes it when the program starts.
class HandedOver {
 public:
  HandedOver() { posix_spawn_file_actions_init(&actions_); }
  ~HandedOver() {
    posix_spawn_file_actions_destroy(&actions_);
    for (const int fd : copies_) close(fd);
  }
  HandedOver(const HandedOver&) = delete;
  HandedOver& operator=(const HandedOver&) = delete;

  // False: there are no more descriptors.
  bool Add(const std::vector<int>& descriptors, int first) {
    const int behind = first + static_cast<int>(descriptors.size());
    int target = first;
    for (const int fd : descriptors) {
      const int copy = fcntl(fd, F_DUPFD_CLOEXEC, behind);
      if (copy < 0) return false;
      copies_.push_back(copy);
      if (posix_spawn_file_actions_adddup2(&actions_, copy, target++) != 0) return false;
    }
    return true;
  }
  const posix_spawn_file_actions_t* actions() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
  std::vector<int> copies_;
};

}  // namespace

WorkerProcess::~WorkerProcess() {
  Signal(SIGKILL);
  Forget();
}

Status WorkerProcess::Start(const std::vector<std::string>& command, const std::vector<std::string>& environment,
                            const std::vector<int>& descriptors) {
  HandedOver handed_over;
  if (!handed_over.Add(descriptors, kFirstHeldDescriptor)) {
    return {StatusCode::kUnavailable, "cannot run " + command[0] + ": " + std::strerror(errno)};
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);  // our signals are blocked for the signalfd; the child's must not be
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const std::vector<std::string> settings = EnvironmentWith(environment);
  const int error = posix_spawn(&pid_, command[0].c_str(), handed_over.actions(), &attributes, Pointers(command).data(),
                                Pointers(settings).data());
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
