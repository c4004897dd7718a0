// WorkerSupervisor: spawns one worker process per service, notices at once when one dies (pidfd), restarts it, and
// tells the scheduler.
//
// Life of a worker block, and who acts:
//   spawn (supervisor) -> loads (worker) -> kUp posted -> serves -> process exits -> kDown posted
//     -> scheduler lets go of the block (BlockReleased) -> spawn again
// A worker that exits more than max_restarts_per_minute times within a minute stays down until the minute has passed;
// its service answers WORKER_FAILED meanwhile, and the other services do not notice.
//
// With CUDA MPS a worker serves only once the MPS daemon lists it as a client, and terminate_client precedes SIGKILL.
//
// Thread rule: Poll, StartAll and StopAll from the main thread; BlockReleased and Condemn from the scheduler's.
#ifndef ABACUS_CONTROLLER_WORKER_SUPERVISOR_H_
#define ABACUS_CONTROLLER_WORKER_SUPERVISOR_H_

#include <sys/types.h>

#include <deque>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "controller/config.h"
#include "controller/mps_control.h"
#include "controller/waker.h"
#include "controller/worker_events.h"
#include "shm/region.h"

namespace abacus {

class WorkerSupervisor : public WorkerControl {
 public:
  // `device` is kCpu, kCuda or kFake. `bin_dir` holds the worker programs.
  WorkerSupervisor(const Config& config, DeviceKind device, std::filesystem::path bin_dir, Region* region);
  ~WorkerSupervisor() override;

  // Where news goes. Set before StartAll.
  void SetListener(WorkerListener* listener) { listener_ = listener; }

  void StartAll();
  // Handles everything that happened, waiting up to `timeout_ms` for something; also returns when `extra_fd` (a
  // signalfd; -1: none) is readable, with true.
  bool Poll(int timeout_ms, int extra_fd);
  // Orders every worker to stop, waits up to `timeout_ns`, then kills. The scheduler must have stopped.
  void StopAll(uint64_t timeout_ns);
  // Ends running work: kills every worker without restarting it. The scheduler still runs and answers their queries.
  void KillAll(const std::string& why);

  void BlockReleased(uint32_t worker) override;
  void Condemn(uint32_t worker, const std::string& why) override;

 private:
  enum class Phase : uint8_t {
    kWaiting,  // to be spawned at spawn_at_ns
    kLoading,  // spawned; must be loaded by load_deadline_ns
    kServing,
    kReleasing,  // dead; the scheduler still holds its block
    kStopped,    // not to be restarted
  };
  struct Worker {
    Phase phase = Phase::kWaiting;
    pid_t pid = -1;
    int pid_fd = -1;
    uint64_t spawn_at_ns = 0;
    uint64_t load_deadline_ns = 0;
    std::string condemned;             // why it was killed, if it was
    std::deque<uint64_t> restarts_ns;  // of the last minute
  };
  struct Order {
    enum Kind : uint8_t { kReleased, kCondemn } kind;
    uint32_t worker;
    std::string why;
  };

  void Spawn(uint32_t index);
  void CheckLoaded(uint32_t index, uint64_t now_ns);
  void Reap(uint32_t index);
  void Restart(uint32_t index, uint64_t now_ns);
  // Tells clients, status and log that the service stays down.
  void GiveUp(uint32_t index, const std::string& why);
  void Kill(uint32_t index, const std::string& why);
  void HandleOrders();
  std::string DescribeExit(uint32_t index, int exit_status) const;
  std::vector<std::string> CommandLine(uint32_t index) const;

  const Config& config_;
  const DeviceKind device_;
  const std::filesystem::path bin_dir_;
  Region* const region_;
  WorkerListener* listener_ = nullptr;
  const MpsControl mps_;
  std::vector<Worker> workers_;
  bool stopping_ = false;

  Waker waker_;
  std::mutex orders_mutex_;
  std::vector<Order> orders_;  // protected by orders_mutex_
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKER_SUPERVISOR_H_
