// Policy: decides which operator ranges run next.
//
// A policy is a pure function of a snapshot: no clock, socket, thread or memory of its own. The same code runs in the
// controller, in unit tests with times of their own choosing, and in the simulator. It is asked whenever something
// changed (a query arrived, a range completed, a worker came or went) and answers with ranges to start now, at most one
// per service and only on services that are `idle()`. An empty plan means: wait.
//
// Whether a job can still make its deadline is not the policy's business: the scheduler answers hopeless jobs when a
// policy picks them (scheduler_loop.h) and asks again.
#ifndef ABACUS_CONTROLLER_POLICY_H_
#define ABACUS_CONTROLLER_POLICY_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "controller/job.h"
#include "predictor/latency_model.h"
#include "shm/layout.h"
#include "shm/status.h"

namespace abacus {

struct ServiceView {
  bool serving = false;           // its worker takes commands
  Job* running = nullptr;         // a range of this job runs now
  std::span<Job* const> waiting;  // arrival order; a job that ran in part waits at the front
  bool idle() const { return serving && running == nullptr; }
};

struct Snapshot {
  uint64_t now_ns = 0;
  std::span<const ServiceView> services;
  const LatencyModel* latency = nullptr;
};

struct Assignment {
  Job* job = nullptr;
  uint32_t first = 0;  // operators [first, last)
  uint32_t last = 0;
};

struct Plan {
  boost::container::static_vector<Assignment, kMaxWorkers> assignments;
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const = 0;
  virtual Plan Next(const Snapshot& snapshot) const = 0;
};

// kInvalidArgument for an unknown name; the message lists the known ones.
Result<std::unique_ptr<Policy>> MakePolicy(const std::string& name);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_POLICY_H_
