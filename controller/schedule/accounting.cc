#include "controller/schedule/accounting.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace abacus {

void Accounting::Accept(uint32_t slot, uint64_t order) {
  Query& query = table_[slot];
  query.status = StatusCode::kOk;
  query.message.clear();
  query.timing = {};
  query.live = true;
  query.order = order;
  query.parts_left = query.parts_unsent = 0;
  query.began_ns = 0;
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  BumpOwned(region_->service(query.service->id).stats.accepted);
}

void Accounting::Refuse(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns) {
  Settle(slot, code, message);
  Finish(&table_[slot], now_ns);
}

void Accounting::Settle(uint32_t slot, StatusCode code, const std::string& message) {
  Query& query = table_[slot];
  if (query.status != StatusCode::kOk) return;
  query.status = code;
  query.message = message;
}

bool Accounting::WaitingEnded(const WaitingQuery& part, uint64_t predicted_ns, uint64_t now_ns) {
  return PartEnded(&table_[part.slot], predicted_ns, now_ns);
}

bool Accounting::MemberEnded(const WaitingQuery& part, const Job& job, uint64_t now_ns) {
  Query& query = table_[part.slot];
  query.timing.executed_us += job.executed_ns / kNsPerUs;
  query.timing.rounds += job.rounds;
  if (job.began_ns != 0) query.began_ns = query.began_ns == 0 ? job.began_ns : std::min(query.began_ns, job.began_ns);
  return PartEnded(&query, job.predicted_ns, now_ns);
}

bool Accounting::PartEnded(Query* query, uint64_t predicted_ns, uint64_t now_ns) {
  query->timing.predicted_us += predicted_ns / kNsPerUs;
  if (--query->parts_left > 0) return false;
  const uint64_t left_queue_ns = query->began_ns != 0 ? query->began_ns : now_ns;
  query->timing.queued_us = (left_queue_ns - query->arrival_ns) / kNsPerUs;
  Finish(query, now_ns);
  return true;
}

void Accounting::Finish(Query* query, uint64_t now_ns) {
  query->live = false;
  ServiceStats& stats = region_->service(query->service->id).stats;
  BumpOwned(stats.replies[static_cast<size_t>(query->status)]);
  if (query->status == StatusCode::kOk) {
    BumpOwned(stats.latency[LatencyBucketOf(now_ns - query->arrival_ns)]);
    if (now_ns > query->deadline_ns) BumpOwned(stats.violations);
  }
  trace_->Add({.kind = TraceEvent::kQuery,
               .status = query->status,
               .service = query->service->id,
               .id = query->id,
               .order = query->order,
               .begin_ns = query->arrival_ns,
               .end_ns = now_ns,
               .deadline_ns = query->deadline_ns});
  Log(LogLevel::kTrace, "query {} of {}: {}", query->id, query->service->config.name, StatusCodeName(query->status));
  finished_.push_back(query->slot);
  in_flight_.fetch_sub(1, std::memory_order_release);
}

void Accounting::CountJob(const Job& job) {
  ServiceStats& stats = region_->service(job.service).stats;
  BumpOwned(stats.jobs);
  BumpOwned(stats.job_rows, uint64_t{job.rows});
  BumpOwned(stats.job_queries, uint64_t{job.queries.size()});
  BumpOwned(stats.padding_rows, uint64_t{job.bucket_rows - job.rows});
}

void Accounting::Flush() {
  if (finished_.empty()) return;
  channel_.done.push(finished_.data(), finished_.size());  // has room for every accepted query
  finished_.clear();
  wake_front_end_();
}

}  // namespace abacus
