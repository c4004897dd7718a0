// Backlog: what one service still has to do: the queries that wait, and the job that ran in part.
//
// Jobs are formed here, out of the queries that a plan picked, at the moment the plan is carried out. Limits, refusals
// and deadlines count queries, whatever jobs they are in.
//
// Thread rule: the scheduler's thread. Ownership: borrows everything in Tools, which must outlive it; its jobs are in
// the lane's pool.
#ifndef ABACUS_CONTROLLER_SCHEDULE_BACKLOG_H_
#define ABACUS_CONTROLLER_SCHEDULE_BACKLOG_H_

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
  };

  explicit Backlog(const Tools* tools) : tools_(*tools) {}

  void SetService(const ServicePtr& service) { service_ = service; }
  // What the worker published: the times of queries follow from it.
  void SetBuckets(std::vector<WorkerRanges> buckets) {
    buckets_ = std::move(buckets);
    has_worker_ = true;
    probe_ = {};
  }
  const std::vector<WorkerRanges>& buckets() const { return buckets_; }

  std::span<const WaitingQuery> waiting() const { return queue_.waiting(); }
  const Job* unfinished() const { return unfinished_; }
  // Queries that were not sent to the end of the model.
  size_t size() const { return queue_.size() + (unfinished_ != nullptr ? unfinished_->queries.size() : 0); }

  // Takes a query in, or answers it: refused, or the queue is full.
  void Enqueue(uint32_t slot, const Query& query, uint64_t order, uint64_t now_ns);
  // From now on all queries get this answer, those that wait at once.
  void Refuse(StatusCode code, const std::string& why, uint64_t now_ns);
  void StopRefusing() { refusing_ = Status::Ok(); }
  bool refusing() const { return !refusing_.ok(); }

  // Answers what cannot make its deadline any more if it starts at `start_ns`, or makes it a probe (probe.h): all such
  // queries, or those that the assignment picked. Returns how many. A job in progress counts as one: it goes on while
  // one of its queries can.
  size_t Abandon(uint64_t start_ns, uint64_t now_ns);
  size_t Abandon(const Assignment& picked, uint64_t start_ns, uint64_t now_ns);
  // A job that was sent ahead and waits for its round: once all its deadlines have passed, that is what will be
  // answered when the worker has given it back, and no more of it is planned.
  void AbandonHeld(Job* job, uint64_t now_ns);

  // Rows of some models depend on each other: such a job holds one query, in the bucket of its size. What a policy
  // picks beyond that waits on.
  void KeepToOneQuery(Assignment* picked) const;
  // Whether the assignment is of a probe.
  bool IsProbe(const Assignment& picked) const;

  // The job of an assignment: the unfinished one, or a new one of the queries that it picked, which wait no longer.
  Job* Take(const Assignment& assignment);
  // A range of the job up to `last` was sent.
  void Sent(Job* job, uint32_t last);
  // It could not be sent: all is as before Take.
  void NotSent(Job* job);
  // The job ends with this error once none of its ranges is out; no more of it is planned.
  void Fail(Job* job, StatusCode code, const std::string& why);
  // A range of the job, which ended at operator `last`, is no longer out.
  void RangeEnded(Job* job, uint32_t last, uint64_t now_ns);
  // The worker is gone, and with it the state of a job that ran in part.
  void WorkerLost(const std::string& why, uint64_t now_ns);

 private:
  enum class Fate : uint8_t { kWaits, kProbes, kAnswered };
  bool AbandonUnfinished(uint64_t start_ns, uint64_t now_ns);
  Fate AbandonWaiting(size_t index, uint64_t start_ns, uint64_t now_ns);
  // Answers one that has left the queue.
  void FinishWaiting(const WaitingQuery& query, StatusCode code, const std::string& message, uint64_t now_ns);
  void Finish(Job* job, StatusCode code, const std::string& message, uint64_t now_ns);
  // Predicted time of operators [first, end) in a bucket; 0 while nothing is known of it.
  uint64_t PredictNs(uint32_t bucket, uint32_t first) const;

  const Tools& tools_;
  ServicePtr service_;
  std::vector<WorkerRanges> buckets_;  // of the process that serves, or served last
  bool has_worker_ = false;            // while it has none, only deadlines that have passed end what waits
  QueryQueue queue_;
  Job* unfinished_ = nullptr;  // goes on before what waits
  Status refusing_;            // the answer to all queries, unless OK
  Probe probe_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_BACKLOG_H_
