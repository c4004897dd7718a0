// ServiceState: one service as its lane keeps it: what it has to do, and the worker that does it.
//
// Thread rule: the scheduler's thread. Ownership: the lane's; borrows the worker slot and the service's block.
#ifndef ABACUS_CONTROLLER_SCHEDULE_SERVICE_STATE_H_
#define ABACUS_CONTROLLER_SCHEDULE_SERVICE_STATE_H_

#include <cstdint>

#include "controller/config/service_set.h"
#include "controller/schedule/backlog.h"
#include "controller/schedule/job.h"
#include "controller/schedule/policy.h"
#include "controller/workers/worker_events.h"
#include "controller/workers/worker_link.h"
#include "shm/region.h"

namespace abacus {

struct ServiceState {
  struct SentRange {
    Job* job = nullptr;
    uint64_t round = 0;  // 0: outside rounds
  };
  using Link = WorkerLink<SentRange>;

  ServiceState(const ServicePtr& first, Region* region, const Backlog::Tools* tools)
      : stats(region->service(first->id).stats), slot(region->worker(first->worker)), backlog(tools) {
    link.Attach(&slot);
  }

  ServicePtr service;
  ServiceStats& stats;
  WorkerSlot& slot;
  Backlog backlog;
  Link link;
  uint32_t generation = 0;  // of the process that serves, or served last
  bool serving = false;
  bool condemned = false;  // asked the supervisor to end it; wait for kDown
  uint64_t fatal_ns = 0;   // when it reported a fatal error, after which it exits by itself; 0: it has not

  WorkerRef worker() const { return {service->worker, generation}; }
  // Whether its worker is up, or will not be for now.
  bool settled() const { return serving || backlog.refusing(); }
  // `running`: the job of a range that runs now and is not to be planned over; null within rounds, where workers are
  // idle once the planned round starts.
  ServiceView View(const Job* running) const {
    ServiceView view;
    view.id = service->id;
    view.serving = serving;
    view.running = running;
    view.unfinished = backlog.unfinished();
    view.waiting = backlog.waiting();
    view.buckets = backlog.buckets();
    view.batchable = service->config.spec.batchable;
    view.max_batch = backlog.max_batch();
    view.spec = &service->config.spec;
    view.qos_ns = service->config.qos_ns;
    return view;
  }
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_SERVICE_STATE_H_
