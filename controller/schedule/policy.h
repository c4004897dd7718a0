// Policy: decides which queries become jobs, and which operator ranges of which jobs run next.
//
// A policy is a pure function of a snapshot: no clock, socket, thread or memory of its own. The same code runs in the
// controller, in unit tests with times of their own choosing, and in the simulator. It sees the queries that wait and,
// of each service, the job that ran in part; it answers with ranges to start, at most one per service and only on
// services that are `idle()`. An empty plan means: wait.
//
// A policy with in_rounds() plans whole rounds (rounds.h), and sees the queues as they will be when its round starts:
// all workers idle, jobs of the running round advanced. Other policies are asked whenever something changed (a query
// arrived, a range completed, a worker came or went), and their ranges start at once.
//
// Whether a query can still make its deadline is not the policy's business: the scheduler answers hopeless queries when
// a policy picks them (lane.h) and asks again.
#ifndef ABACUS_CONTROLLER_SCHEDULE_POLICY_H_
#define ABACUS_CONTROLLER_SCHEDULE_POLICY_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/status.h"
#include "controller/config/config.h"
#include "controller/schedule/adaptive_margin.h"
#include "controller/schedule/job.h"
#include "controller/workers/worker_ranges.h"
#include "predictor/latency_model.h"
#include "shm/layout.h"

namespace abacus {

struct ServiceView {
  ServiceId id;
  bool serving = false;                   // its worker takes commands
  const Job* running = nullptr;           // a range of this job runs now
  const Job* unfinished = nullptr;        // ran or was sent in part: goes on before any other of the service may begin
  std::span<const WaitingQuery> waiting;  // arrival order
  std::span<const WorkerRanges> buckets;  // what its worker published; there once it serves
  bool batchable = true;                  // false: a job holds one query; of an assignment with more the first is kept

  bool idle() const { return serving && running == nullptr; }
  bool has_work() const { return unfinished != nullptr || !waiting.empty(); }
};

struct Snapshot {
  uint64_t now_ns = 0;  // when the plan starts
  std::span<const ServiceView> services;
  const LatencyModel* latency = nullptr;
  double margin = 0;  // safety margin (adaptive_margin.h), a share

  uint64_t WithMargin(uint64_t predicted_ns) const { return predicted_ns + AdaptiveMargin::Of(predicted_ns, margin); }
};

// Operators [first, last) of the view's unfinished job, or of a new one. Synthetic queries, which carry no tensors, and
// others are never put into one job.
struct Assignment {
  ServiceId service;
  bool resumes = false;                                               // the unfinished job; else a job of `queries`
  boost::container::static_vector<uint32_t, kMaxJobQueries> queries;  // indices of ServiceView::waiting, ascending
  uint32_t bucket = 0;
  uint32_t first = 0;
  uint32_t last = 0;

  OperatorRange range() const { return {service, bucket, first, last}; }
};

struct Plan {
  boost::container::static_vector<Assignment, kMaxServices> assignments;
};

// What a service could run next: the rest of its unfinished job, or a job that would be formed of one waiting query,
// which is all that the policies of today start; an Assignment can name several.
struct Candidate {
  const ServiceView* service = nullptr;
  bool resumes = false;
  uint32_t query = 0;  // index of ServiceView::waiting, unless it resumes
  uint32_t bucket = 0;
  uint32_t first = 0;  // operators [first, operators) are left
  uint32_t operators = 0;
  uint64_t order = 0;
  uint64_t arrival_ns = 0;
  uint64_t deadline_ns = 0;  // by which it is ordered: WaitingQuery::due_ns

  static Candidate Resume(const ServiceView& service);
  static Candidate Begin(const ServiceView& service, uint32_t query);
  const WorkerRanges& ranges() const { return service->buckets[bucket]; }
  OperatorRange rest() const { return {service->id, bucket, first, operators}; }
  Assignment UpTo(uint32_t last) const;
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const = 0;
  virtual bool in_rounds() const { return true; }
  virtual Plan Next(const Snapshot& snapshot) const = 0;
};

// kInvalidArgument for a name that is none of kPolicyNames; the message lists them.
Result<std::unique_ptr<Policy>> MakePolicy(const std::string& name, Packing packing = Packing::kBalanced);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_POLICY_H_
