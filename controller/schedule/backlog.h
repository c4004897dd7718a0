// Backlog: what one service still has to do: the queries that wait, and the jobs that are in progress.
//
// Jobs are formed here, out of the queries that a plan picked, at the moment the plan is carried out. Limits, refusals
// and deadlines count queries, whatever jobs they are in.
//
// A query with more rows than the largest bucket waits as several parts, which run in jobs of their own choosing. It
// gets one answer as a whole: the first that one of its parts brings, unless all succeed. Then the parts that wait are
// dropped; those in jobs stay in them, unseen, because a worker may be using the query's tensors, and the answer goes
// out when the last has ended. The same happens to a query that is cancelled. A job that nobody wants any more is not
// planned further.
//
// Thread rule: the scheduler's thread. Ownership: borrows everything in Tools, which must outlive it; its jobs are in
// the lane's pool.
#ifndef ABACUS_CONTROLLER_SCHEDULE_BACKLOG_H_
#define ABACUS_CONTROLLER_SCHEDULE_BACKLOG_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "controller/config/service_set.h"
#include "controller/intake/query_table.h"
#include "controller/schedule/accounting.h"
#include "controller/schedule/job.h"
#include "controller/schedule/policy.h"
#include "controller/schedule/probe.h"
#include "controller/schedule/query_queue.h"
#include "controller/schedule/rounds.h"

namespace abacus {

class Backlog {
 public:
  // Of the lane.
  struct Tools {
    Rounds* rounds = nullptr;
    Accounting* accounting = nullptr;
    JobPool* jobs = nullptr;
    QueryTable* table = nullptr;
    Batching batching = Batching::kGreedy;
  };

  explicit Backlog(const Tools* tools) : tools_(*tools) {}

  void SetService(const ServicePtr& service);
  // What the worker published: the times of queries follow from it.
  void SetBuckets(std::vector<WorkerRanges> buckets) {
    buckets_ = std::move(buckets);
    has_worker_ = true;
    probe_ = {};
  }
  const std::vector<WorkerRanges>& buckets() const { return buckets_; }
  // Rows that a job of several queries may have; 1: there is none.
  uint32_t max_batch() const { return max_batch_; }

  std::span<const WaitingQuery> waiting() const { return queue_.waiting(); }
  const Job* unfinished() const { return unfinished_; }
  // Queries that were not sent to the end of the model.
  size_t size() const { return unsent_; }

  // Takes an accepted query in, or answers it: refused, or the queue is full.
  void Enqueue(uint32_t slot, uint64_t now_ns);
  // Its client does not want the answer of a live query any more.
  void Cancel(uint32_t slot, uint64_t now_ns);
  // From now on all queries get this answer, those that wait at once.
  void Refuse(StatusCode code, const std::string& why, uint64_t now_ns);
  void StopRefusing() { refusing_ = Status::Ok(); }
  bool refusing() const { return !refusing_.ok(); }

  // Answers what cannot make its deadline any more if it starts at `start_ns`, or makes it a probe (probe.h): all such
  // queries, or those that the assignment picked. Of a job in progress only marks them, so that they do not urge, until
  // it has no other. Returns how much has changed.
  size_t Abandon(uint64_t start_ns, uint64_t now_ns);
  size_t Abandon(const Assignment& picked, uint64_t start_ns, uint64_t now_ns);
  // A job that was sent ahead and waits for its round: once all its deadlines have passed, that is what will be
  // answered when the worker has given it back, and no more of it is planned.
  void AbandonHeld(Job* job, uint64_t now_ns);

  // Makes what a policy picked a job that may run, whatever it picked: the rows fit the bucket and max_batch, which one
  // query alone may exceed; synthetic queries and others are not mixed; a probe is alone; where padding along the
  // sequence changes answers all have the bucket's length, and where rows depend on each other there is one query, in
  // the bucket of its size. What does not fit to the most urgent one waits on. False: nothing is left to run.
  bool MakeSafe(Assignment* picked) const;
  // Whether the assignment is of a probe.
  bool IsProbe(const Assignment& picked) const;

  // The job of an assignment: the unfinished one, or a new one of the queries that it picked, which wait no longer.
  Job* Take(const Assignment& assignment);
  // A range of the job up to `last` was sent.
  void Sent(Job* job, uint32_t last);
  // It could not be sent: all is as before Take.
  void NotSent(Job* job);
  // The job ends with this error once none of its ranges is out; no more of it is planned.
  void Fail(Job* job, StatusCode code, const std::string& why, uint64_t now_ns);
  // A range of the job, which ended at operator `last`, is no longer out.
  void RangeEnded(Job* job, uint32_t last, uint64_t now_ns);
  // A range of the job failed, and the device may go on writing to its memory until the process has ended: so it is
  // answered then.
  void KeepUntilWorkerLost(Job* job) { ++job->ranges_out; }
  // The worker is gone, and with it the state of a job that ran in part.
  void WorkerLost(const std::string& why, uint64_t now_ns);

 private:
  enum class Fate : uint8_t { kWaits, kProbes, kAnswered };
  bool Holds(uint32_t bucket, const WaitingQuery& query) const;
  size_t AbandonUnfinished(uint64_t start_ns, uint64_t now_ns);
  Fate AbandonWaiting(uint32_t index, uint64_t start_ns, uint64_t now_ns);
  // The query gets this answer, unless one is settled already, when those of its parts have ended that are in jobs.
  void EndQuery(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns);
  void DropWaiting(uint32_t slot, uint64_t now_ns);
  // Nothing more of jobs is planned of whose queries none needs it.
  void EndUnwanted(uint64_t now_ns);
  // Nothing more of the job will be sent.
  void NoMoreOf(Job* job);
  // The job is over: no range of it is out.
  void End(Job* job, uint64_t now_ns);
  void PartSent(uint32_t slot);
  void ProbeEnded(const WaitingQuery& query, bool completed, uint64_t now_ns);
  // Predicted time of operators [first, end) in a bucket; 0 while nothing is known of it.
  uint64_t PredictNs(uint32_t bucket, uint32_t first) const;

  const Tools& tools_;
  ServicePtr service_;
  uint32_t max_batch_ = 1;
  std::vector<WorkerRanges> buckets_;  // of the process that serves, or served last
  bool has_worker_ = false;            // while it has none, only deadlines that have passed end what waits
  QueryQueue queue_;
  size_t unsent_ = 0;          // queries
  Job* unfinished_ = nullptr;  // goes on before what waits
  // In progress: the unfinished one, and those with ranges out.
  boost::container::static_vector<Job*, kMaxSent + 1> jobs_;
  Status refusing_;  // the answer to all queries, unless OK
  Probe probe_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_BACKLOG_H_
