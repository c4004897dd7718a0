// Accounting: gives every accepted query its one answer, and counts it.
//
// Every query that enters the scheduler leaves it here, exactly once: when the last of its parts has ended, because
// until then a worker may use its tensors. What the answer will be can be settled earlier; the first to say so decides.
// Answers of one iteration go to the front end together (Flush). Statistics and trace count queries.
//
// Thread rule: the scheduler's thread, except in_flight. Ownership: borrows table, channel, region and recorder.
#ifndef ABACUS_CONTROLLER_SCHEDULE_ACCOUNTING_H_
#define ABACUS_CONTROLLER_SCHEDULE_ACCOUNTING_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "controller/intake/query_table.h"
#include "controller/schedule/job.h"
#include "controller/trace/trace_recorder.h"
#include "shm/region.h"

namespace abacus {

class Accounting {
 public:
  Accounting(QueryTable* table, QueryChannel* channel, Region* region, TraceRecorder* trace,
             std::function<void()> wake_front_end)
      : table_(*table),
        channel_(*channel),
        region_(region),
        trace_(trace),
        wake_front_end_(std::move(wake_front_end)) {}

  // A query came in.
  void Accept(uint32_t slot, uint64_t order);
  // It is answered without having waited.
  void Refuse(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns);
  // What it will be answered, unless that is settled already. One that nobody settles is OK.
  void Settle(uint32_t slot, StatusCode code, const std::string& message);
  // A part of the query ended that never left its queue (`predicted_ns`: of a pass alone), or that was in this job.
  // True: it was the last, and the query is answered.
  bool WaitingEnded(const WaitingQuery& part, uint64_t predicted_ns, uint64_t now_ns);
  bool MemberEnded(const WaitingQuery& part, const Job& job, uint64_t now_ns);
  // The job ran to its end.
  void CountJob(const Job& job);
  // Hands what was answered to the front end.
  void Flush();

  // Accepted queries that have no answer yet. Any thread.
  uint64_t in_flight() const { return in_flight_.load(std::memory_order_acquire); }

 private:
  bool PartEnded(Query* query, uint64_t predicted_ns, uint64_t now_ns);
  void Finish(Query* query, uint64_t now_ns);

  QueryTable& table_;
  QueryChannel& channel_;
  Region* const region_;
  TraceRecorder* const trace_;
  const std::function<void()> wake_front_end_;
  std::vector<uint32_t> finished_;  // since the last Flush
  std::atomic<uint64_t> in_flight_{0};
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_ACCOUNTING_H_
