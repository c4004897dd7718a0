// WorkerSupervisor: spawns one worker process per service, notices at once when one dies (pidfd), restarts it, and
// tells the scheduler.
//
// Life of a worker slot, and who acts:
//   spawn (supervisor) -> loads (worker) -> kUp posted -> serves -> process exits -> kDown posted
//     -> scheduler lets go of the slot (SlotReleased) -> spawn again
// Every process that holds the slot is another generation of it. An order about another generation than the one that
// holds the slot now is ignored: it came too late, and must not reach the successor.
// A worker that exits more than max_restarts_per_minute times within a minute stays down until the minute has passed;
// its service answers WORKER_FAILED meanwhile, and the other services do not notice. One whose model is refused
// (INVALID_ARGUMENT or NOT_FOUND while it loads, or a Service with a refusal) would be refused again: it stays down.
//
// Workers load at the same time, and measure in turns (measuring_turns.h): a loaded model waits in kAwaitsTurn for
// kMeasure. Until then its load_timeout_s does not run.
//
// With CUDA MPS a worker serves only once its lane's daemon lists it as a client, and terminate_client precedes
// SIGKILL.
//
// Thread rule: all from the main thread, but SlotReleased and Condemn, which any thread may call.
// Ownership: borrows the region; keeps what it needs of services and settings by value.
#ifndef ABACUS_CONTROLLER_WORKERS_WORKER_SUPERVISOR_H_
#define ABACUS_CONTROLLER_WORKERS_WORKER_SUPERVISOR_H_

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/mailbox.h"
#include "base/waker.h"
#include "controller/config/service_set.h"
#include "controller/workers/measuring_turns.h"
#include "controller/workers/mps_daemon.h"
#include "controller/workers/restart_limit.h"
#include "controller/workers/worker_events.h"
#include "controller/workers/worker_process.h"
#include "shm/region.h"

namespace abacus {

class WorkerSupervisor : public WorkerControl {
 public:
  struct Settings {
    WorkerConfig worker;
    std::string name;  // of the segment: [server] name
    std::string log_level;
    uint32_t spin_us = 0;
    DeviceKind device = DeviceKind::kCpu;  // what auto was resolved to
    std::filesystem::path bin_dir;         // holds the worker programs

    // Workers run models, so they need the model files.
    bool needs_model_files() const { return device != DeviceKind::kFake; }
  };
  // For the services of a configuration: their device is decided here, and their programs lie beside the running one.
  static Settings SettingsFor(const Config& config);

  // `daemons`: one per lane (FindMpsDaemons). They are asked where the device is kCuda and worker.mps is set, and may
  // be missing otherwise. Writes the names of lanes and services into the region.
  WorkerSupervisor(Settings settings, const ServiceSetPtr& services, Region* region,
                   std::vector<std::unique_ptr<MpsDaemon>> daemons);

  // Where news goes. Set before StartAll.
  void SetListener(WorkerListener* listener) { listener_ = listener; }

  void StartAll();
  // The services from now on: new ones get a worker; others keep theirs, and their next one starts with what the new
  // set says. None is missing that was there before, and none has moved to another slot. After StartAll.
  void Publish(const ServiceSetPtr& services);
  // Handles everything that happened, waiting up to `timeout_ms` for something; also returns when `extra_fd` (a
  // signalfd; -1: none) is readable, with true.
  bool Poll(int timeout_ms, int extra_fd);
  // Orders every worker to stop, waits up to `timeout_ns`, then kills. The scheduler must have stopped.
  void StopAll(uint64_t timeout_ns);
  // Ends running work: kills every worker without restarting it. The scheduler still runs and answers their queries.
  void KillAll(const std::string& why);

  void SlotReleased(WorkerRef worker) override;
  void Condemn(WorkerRef worker, const std::string& why) override;

 private:
  enum class Phase : uint8_t {
    kWaiting,  // to be spawned at spawn_at_ns
    kLoading,  // spawned; must be loaded by load_deadline_ns, unless it awaits its turn
    kServing,
    kReleasing,  // dead; the scheduler still holds its slot
    kStopped,    // not to be restarted
  };
  struct Worker {
    ServicePtr service;  // null: nobody uses the slot
    uint32_t generation = 0;
    Phase phase = Phase::kWaiting;
    WorkerProcess process;
    uint64_t spawn_at_ns = 0;
    uint64_t load_deadline_ns = 0;
    bool measures = false;  // was given its turn
    std::string condemned;  // why it was killed, if it was
    bool refused = false;   // its model cannot be served: a next one would fail in the same way
    RestartLimit restarts;

    WorkerRef ref() const { return {service->worker, generation}; }
    const std::string& name() const { return service->config.name; }
  };
  struct Order {
    enum Kind : uint8_t { kReleased, kCondemn } kind;
    WorkerRef worker;
    std::string why;
  };

  void TakeOver(const ServiceSet& services);
  // The daemon that the worker must be a client of; null: none.
  const MpsDaemon* DaemonOf(const Worker& worker) const;
  std::vector<std::string> CommandLine(const Worker& worker) const;
  // Spawns its first process, or says why there is nothing to spawn.
  void StartService(Worker& worker);
  void Spawn(Worker& worker);
  WorkerState StateOf(const Worker& worker) const;
  void CheckLoaded(Worker& worker, uint64_t now_ns);
  void GiveTurns(uint64_t now_ns);
  void Reap(Worker& worker);
  void Restart(Worker& worker, uint64_t now_ns);
  // Tells clients, status and log that the service stays down: for now, or for good.
  void GiveUp(Worker& worker, StatusCode code, const std::string& why);
  void StayDown(Worker& worker, StatusCode code, const std::string& reason);
  void Kill(Worker& worker, const std::string& why);
  void HandleOrders();
  bool PollUntilAllEnded(uint64_t timeout_ns);

  const Settings settings_;
  Region* const region_;
  const std::vector<std::unique_ptr<MpsDaemon>> daemons_;  // by LaneId
  WorkerListener* listener_ = nullptr;
  std::array<Worker, kMaxWorkers> workers_;  // by WorkerId
  MeasuringTurns turns_;
  bool stopping_ = false;

  Waker waker_;
  Mailbox<Order> orders_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_WORKER_SUPERVISOR_H_
