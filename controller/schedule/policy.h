// Policy: decides which queries become jobs, and which operator ranges of which jobs run next.
//
// A policy is a pure function of a snapshot: no clock, socket, thread or memory of its own. The same code runs in the
// controller, in unit tests with times of their own choosing, and in the simulator. It sees the queries that wait and,
// of each service, the job that ran in part; it answers with ranges to start, at most one per service and only on
// services that are `idle()`. An empty plan means: wait, until something changes or Plan::wake_ns. Queries become
// batches here and nowhere else (batching.h), at the last moment: a query that arrives while a round runs may still go
// along with the next one.
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
#include "models/model_spec.h"
#include "predictor/latency_model.h"
#include "shm/layout.h"

namespace abacus {

struct ServiceView {
  ServiceId id;
  bool serving = false;                   // its worker takes commands
  const Job* running = nullptr;           // a range of this job runs now
  const Job* unfinished = nullptr;        // ran or was sent in part: goes on before any other of the service may begin
  std::span<const WaitingQuery> waiting;  // most urgent first: by due_ns(), ties by order
  std::span<const WorkerRanges> buckets;  // what its worker published; there once it serves
  bool batchable = true;                  // false: a job holds one query, in the bucket of exactly its size
  uint32_t max_batch = 1;                 // rows of a job; 1: no job of several queries
  const ModelSpec* spec = nullptr;        // shapes of the buckets
  uint64_t qos_ns = 0;                    // latency target of its queries, unless they bring their own

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
  uint64_t wake_ns = UINT64_MAX;  // the policy waits on purpose, until then at the latest
  // For status and trace: whose headroom bounded the round (WaitingQuery::order; 0: nobody's), and the worth that it
  // does per predicted time (batching.h); 0: not computed.
  uint64_t urgent_order = 0;
  float worth_per_time = 0;
};

// A job that a service could start.
struct Batch {
  const ServiceView* service = nullptr;
  uint32_t bucket = 0;
  uint32_t rows = 0;                                                  // of its queries, without padding
  boost::container::static_vector<uint32_t, kMaxJobQueries> queries;  // indices of ServiceView::waiting, ascending
};

// What a service could run next: the rest of its unfinished job, or a new one.
struct Candidate {
  const ServiceView* service = nullptr;
  bool resumes = false;
  boost::container::static_vector<uint32_t, kMaxJobQueries> queries;  // as Assignment::queries
  uint32_t bucket = 0;
  uint32_t first = 0;  // operators [first, operators) are left
  uint32_t operators = 0;
  uint64_t order = 0;  // of its oldest query

  static Candidate Resume(const ServiceView& service);
  static Candidate Begin(const Batch& batch);
  OperatorRange rest() const { return {service->id, bucket, first, operators}; }
  Assignment UpTo(uint32_t last) const { return {service->id, resumes, queries, bucket, first, last}; }
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const = 0;
  virtual bool in_rounds() const { return true; }
  virtual Plan Next(const Snapshot& snapshot) const = 0;
};

// kInvalidArgument for a policy that is none of kPolicyNames; the message lists them.
Result<std::unique_ptr<Policy>> MakePolicy(const SchedulerConfig& config);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_POLICY_H_
