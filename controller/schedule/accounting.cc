#include "controller/schedule/accounting.h"

#include "base/clock.h"
#include "base/log.h"

namespace abacus {

void Accounting::Accept(uint32_t slot) {
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  BumpOwned(region_->service(table_[slot].service->id).stats.accepted);
}

void Accounting::Finish(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns) {
  Query& query = table_[slot];
  query.status = code;
  query.message = message;
  ServiceStats& stats = region_->service(query.service->id).stats;
  BumpOwned(stats.replies[static_cast<size_t>(code)]);
  if (code == StatusCode::kOk) {
    BumpOwned(stats.latency[LatencyBucketOf(now_ns - query.arrival_ns)]);
    if (now_ns > query.deadline_ns) BumpOwned(stats.violations);
  }
  trace_->Add({.kind = TraceEvent::kQuery,
               .status = code,
               .service = query.service->id,
               .id = query.id,
               .begin_ns = query.arrival_ns,
               .end_ns = now_ns,
               .deadline_ns = query.deadline_ns});
  Log(LogLevel::kTrace, "query {} of {}: {}", query.id, query.service->config.name, StatusCodeName(code));
  finished_.push_back(slot);
  in_flight_.fetch_sub(1, std::memory_order_release);
}

void Accounting::FinishWaiting(const WaitingQuery& query, uint64_t predicted_ns, StatusCode code,
                               const std::string& message, uint64_t now_ns) {
  protocol::Timing& timing = table_[query.slot].timing;
  timing.queued_us = (now_ns - query.arrival_ns) / kNsPerUs;
  timing.predicted_us = predicted_ns / kNsPerUs;
  Finish(query.slot, code, message, now_ns);
}

void Accounting::FinishJob(const Job& job, StatusCode code, const std::string& message, uint64_t now_ns) {
  const uint64_t left_queue_ns = job.began_ns != 0 ? job.began_ns : now_ns;
  for (const WaitingQuery& query : job.queries) {
    protocol::Timing& timing = table_[query.slot].timing;
    timing.queued_us = (left_queue_ns - query.arrival_ns) / kNsPerUs;
    timing.executed_us = job.executed_ns / kNsPerUs;
    timing.rounds = job.rounds;
    timing.predicted_us = job.predicted_ns / kNsPerUs;
    Finish(query.slot, code, message, now_ns);
  }
}

void Accounting::Flush() {
  if (finished_.empty()) return;
  channel_.done.push(finished_.data(), finished_.size());  // has room for every accepted query
  finished_.clear();
  wake_front_end_();
}

}  // namespace abacus
