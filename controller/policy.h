// Policy: decides which operator ranges run next.
//
// A policy is a pure function of a snapshot: no clock, socket, thread or memory of its own. The same code runs in the
// controller, in unit tests with times of their own choosing, and in the simulator. It answers with ranges to start, at
// most one per service and only on services that are `idle()`. An empty plan means: wait.
//
// A policy with in_rounds() plans whole rounds: it is asked for the next round shortly before the running one is
// predicted to end, and sees the queues as they will be then (all workers idle, jobs of the running round advanced).
// Its ranges start together when the running round has ended. Other policies are asked whenever something changed (a
// query arrived, a range completed, a worker came or went), and their ranges start at once.
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

#include "controller/adaptive_margin.h"
#include "controller/config.h"
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
  uint64_t now_ns = 0;  // when the plan starts
  std::span<const ServiceView> services;
  const LatencyModel* latency = nullptr;
  double margin = 0;  // safety margin (adaptive_margin.h), a share

  uint64_t WithMargin(uint64_t predicted_ns) const { return predicted_ns + AdaptiveMargin::Of(predicted_ns, margin); }
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
  virtual bool in_rounds() const { return true; }
  virtual Plan Next(const Snapshot& snapshot) const = 0;
};

// kInvalidArgument for an unknown name; the message lists the known ones.
Result<std::unique_ptr<Policy>> MakePolicy(const std::string& name, Packing packing = Packing::kBalanced);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_POLICY_H_
