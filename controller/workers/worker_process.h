// WorkerProcess: one child process, from its start until somebody took note of its end.
//
// Ownership: the process is killed with the object. Its standard error is ours. Thread rule: one thread.
#ifndef ABACUS_CONTROLLER_WORKERS_WORKER_PROCESS_H_
#define ABACUS_CONTROLLER_WORKERS_WORKER_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace abacus {

class WorkerProcess {
 public:
  WorkerProcess() = default;
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // `environment`: settings that it has beside ours. `descriptors`: open files of ours that it gets, as
  // kFirstHeldDescriptor (models/held_model.h) and the following. No signal is blocked in it. Only while none is alive.
  // kUnavailable: it cannot be run; the message says why.
  Status Start(const std::vector<std::string>& command, const std::vector<std::string>& environment,
               const std::vector<int>& descriptors = {});

  // Until Reap has returned how it ended.
  bool alive() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  // Readable once it has ended; -1 while there is none.
  int exit_fd() const { return exit_fd_; }
  void Signal(int signal_number) const;
  // How it ended, as waitpid says it, once it has.
  std::optional<int> Reap();

 private:
  void Forget();

  pid_t pid_ = -1;
  int exit_fd_ = -1;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_WORKER_PROCESS_H_
