// MpsControl: asks the CUDA MPS control daemon who its clients are, and ends clients in the order that NVIDIA supports.
//
// A process whose daemon cannot be reached runs silently without MPS, so a worker counts as attached only when the
// daemon lists its pid. The daemon is found as CUDA finds it: by CUDA_MPS_PIPE_DIRECTORY in the environment.
//
// Thread rule: the supervisor's thread; calls take up to a second. Errors say which command failed and how.
#ifndef ABACUS_CONTROLLER_MPS_CONTROL_H_
#define ABACUS_CONTROLLER_MPS_CONTROL_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "shm/status.h"

namespace abacus {

class MpsControl {
 public:
  struct Client {
    pid_t server = 0;
    pid_t pid = 0;
  };

  explicit MpsControl(std::string command = "nvidia-cuda-mps-control") : command_(std::move(command)) {}

  Result<std::vector<Client>> Clients() const;
  // True when the daemon lists `pid`; an error when it cannot be asked.
  Result<bool> IsClient(pid_t pid) const;
  // terminate_client: to be called before SIGKILL of a client that may be using the GPU. A client that is not listed is
  // fine.
  Status Terminate(pid_t pid) const;

 private:
  Result<std::vector<pid_t>> AskPids(const std::string& question) const;
  const std::string command_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_MPS_CONTROL_H_
