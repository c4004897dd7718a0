// MpsDaemon: what the supervisor wants of the CUDA MPS control daemon of one lane. MpsControl is the real one; tests
// bring their own.
//
// Thread rule: the supervisor's thread. Errors say which question failed and how.
#ifndef ABACUS_CONTROLLER_WORKERS_MPS_DAEMON_H_
#define ABACUS_CONTROLLER_WORKERS_MPS_DAEMON_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/status.h"

namespace abacus {

class MpsDaemon {
 public:
  virtual ~MpsDaemon() = default;
  // True when the daemon lists `pid`; an error when it cannot be asked.
  virtual Result<bool> IsClient(pid_t pid) const = 0;
  // terminate_client: to be called before SIGKILL of a client that may be using the GPU. A client that is not listed is
  // fine.
  virtual Status Terminate(pid_t pid) const = 0;
  // "NAME=VALUE": what a process has in its environment to become a client of this daemon and no other.
  virtual std::vector<std::string> environment() const = 0;
  // True: the daemon has its lane's GPU alone, so its clients see that GPU as the first, whatever its number is.
  virtual bool has_one_gpu() const = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_MPS_DAEMON_H_
