// MpsControl: asks a CUDA MPS control daemon who its clients are, and ends clients in the order that NVIDIA supports.
//
// A process whose daemon cannot be reached runs silently without MPS, so a worker counts as attached only when the
// daemon lists its pid. A daemon is found as CUDA finds it: by CUDA_MPS_PIPE_DIRECTORY.
//
// Which daemon is a lane's: mps.sh starts one per GPU, in a folder of its own in the controller's folder, with pipe/,
// log/ and a file `owned`. The folder is mps/ where the controller has one GPU, else mps-0/, mps-1/, ... by lane. A
// lane without such a file uses the daemon that our environment names; somebody else runs it.
//
// Thread rule: the supervisor's thread; calls take up to seconds. Errors say which command failed and how.
#ifndef ABACUS_CONTROLLER_WORKERS_MPS_CONTROL_H_
#define ABACUS_CONTROLLER_WORKERS_MPS_CONTROL_H_

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "controller/workers/mps_daemon.h"

namespace abacus {

class MpsControl : public MpsDaemon {
 public:
  struct Client {
    pid_t server = 0;
    pid_t pid = 0;
  };

  // `folder`: where mps.sh started the daemon, for one GPU; empty: the daemon that our environment names.
  explicit MpsControl(std::filesystem::path folder = {}, std::string command = "nvidia-cuda-mps-control")
      : folder_(std::move(folder)), command_(std::move(command)) {}

  Result<std::vector<Client>> Clients() const;

  Result<bool> IsClient(pid_t pid) const override;
  Status Terminate(pid_t pid) const override;
  std::vector<std::string> environment() const override;
  bool has_one_gpu() const override { return !folder_.empty(); }

 private:
  Result<std::string> Ask(const std::string& question) const;
  Result<std::vector<pid_t>> AskPids(const std::string& question) const;

  const std::filesystem::path folder_;
  const std::string command_;
};

// The daemons of a controller's lanes, in their order. `controller_folder`: RUN_DIR/NAME; empty: there is none, so all
// use the daemon that our environment names.
std::vector<std::unique_ptr<MpsDaemon>> FindMpsDaemons(const std::filesystem::path& controller_folder, size_t lanes);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_MPS_CONTROL_H_
