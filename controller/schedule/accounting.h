// Accounting: gives every accepted query its one answer, and counts it.
//
// Every query that enters the scheduler leaves it here, exactly once. Answers of one iteration go to the front end
// together (Flush). Statistics and trace count queries.
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
  void Accept(uint32_t slot);
  // It is answered. The timing, but for the time in total, must be set where it has one.
  void Finish(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns);
  // A query that never left its queue; `predicted_ns` is of a pass alone.
  void FinishWaiting(const WaitingQuery& query, uint64_t predicted_ns, StatusCode code, const std::string& message,
                     uint64_t now_ns);
  // All queries of a job that ends.
  void FinishJob(const Job& job, StatusCode code, const std::string& message, uint64_t now_ns);
  // Hands what was answered to the front end.
  void Flush();

  // Accepted queries that have no answer yet. Any thread.
  uint64_t in_flight() const { return in_flight_.load(std::memory_order_acquire); }

 private:
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
