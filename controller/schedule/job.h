// Job: queries of one service that run as one batch in one bucket. Formed when a plan starts it, never earlier.
//
// The rows of its queries, one after another, are the first rows of the batch. A worker has one job in progress, so a
// job that ran in part goes before everything else of its service.
// Thread rule: the scheduler's thread. Ownership: the lane's JobPool; addresses are stable.
#ifndef ABACUS_CONTROLLER_SCHEDULE_JOB_H_
#define ABACUS_CONTROLLER_SCHEDULE_JOB_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "controller/schedule/query_queue.h"

namespace abacus {

struct Job {
  uint64_t id = 0;
  ServiceId service;
  uint32_t bucket = 0;
  std::vector<WaitingQuery> queries;  // or parts of such
  uint32_t rows = 0;                  // of all of them
  uint32_t bucket_rows = 0;           // of the bucket; what is missing is padding
  bool synthetic = false;             // all of its queries are

  uint32_t operators = 0;      // of the bucket
  uint32_t next_operator = 0;  // [0, next_operator) has run or was sent to run, or is not to run any more
  uint32_t ranges_out = 0;     // sent and not completed
  bool failed = false;         // it ends early, once no range is out

  uint64_t began_ns = 0;      // when its first range could run: what was sent ahead waits for its round; 0: not yet
  uint64_t predicted_ns = 0;  // of a whole pass, when it was formed
  uint64_t executed_ns = 0;
  uint32_t rounds = 0;

  // Whether one of its queries still counts on it.
  bool wanted() const { return std::ranges::any_of(queries, &WaitingQuery::counts); }
  // Its most urgent query and its oldest one decide for all, among those that count; UINT64_MAX: none does.
  uint64_t due_ns() const { return Least(&WaitingQuery::due_ns); }
  uint64_t arrival_ns() const { return Least(&WaitingQuery::arrival_ns); }
  uint64_t order() const { return Least(&WaitingQuery::order); }

 private:
  template <class Of>
  uint64_t Least(Of of) const {
    uint64_t least = UINT64_MAX;
    for (const WaitingQuery& query : queries) {
      if (query.counts()) least = std::min(least, std::invoke(of, query));
    }
    return least;
  }
};

class JobPool {
 public:
  Job* New() {
    if (free_.empty()) free_.push_back(&jobs_.emplace_back());
    Job* job = free_.back();
    free_.pop_back();
    std::vector<WaitingQuery> queries = std::move(job->queries);  // whose memory it keeps
    queries.clear();
    *job = Job{};
    job->id = next_id_++;
    job->queries = std::move(queries);
    return job;
  }
  void Recycle(Job* job) { free_.push_back(job); }

 private:
  std::deque<Job> jobs_;
  std::vector<Job*> free_;
  uint64_t next_id_ = 1;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_JOB_H_
