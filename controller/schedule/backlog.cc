#include "controller/schedule/backlog.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "controller/schedule/hopeless.h"

namespace abacus {

uint64_t Backlog::PredictNs(uint32_t bucket, uint32_t first) const {
  if (bucket >= buckets_.size() || first >= buckets_[bucket].operators) return 0;
  return tools_.rounds->latency().PredictNs({service_->id, bucket, first, buckets_[bucket].operators});
}

void Backlog::Enqueue(uint32_t slot, const Query& query, uint64_t order, uint64_t now_ns) {
  const ServiceConfig& config = service_->config;
  if (refusing()) {
    tools_.accounting->Finish(slot, refusing_.code(), refusing_.message(), now_ns);
  } else if (size() >= config.queue_limit) {
    tools_.accounting->Finish(slot, StatusCode::kOverloaded,
                              fmt::format("the queue of {} is full ({} queries); retry later or raise its queue_limit",
                                          config.name, config.queue_limit),
                              now_ns);
  } else {
    queue_.PushBack({.slot = slot,
                     .rows = query.rows,
                     .sequence = query.sequence,
                     .bucket = query.service->config.spec.FindBucket(query.rows, query.sequence).value(),  // admitted
                     .order = order,
                     .arrival_ns = query.arrival_ns,
                     .deadline_ns = query.deadline_ns,
                     .synthetic = query.synthetic});
  }
}

void Backlog::Refuse(StatusCode code, const std::string& why, uint64_t now_ns) {
  refusing_ = Status(code, why);
  if (Job* job = unfinished_; job != nullptr && job->ranges_out > 0) {
    Fail(job, code, why);
  } else if (job != nullptr) {
    Finish(job, code, why, now_ns);
  }
  while (queue_.size() > 0) FinishWaiting(queue_.Take(0), code, why, now_ns);
}

// --- Deadlines -----------------------------------------------------------------------------------------------------

size_t Backlog::Abandon(uint64_t start_ns, uint64_t now_ns) {
  size_t abandoned = AbandonUnfinished(start_ns, now_ns) ? 1 : 0;
  for (size_t i = 0; i < queue_.size();) {
    const Fate fate = AbandonWaiting(i, start_ns, now_ns);
    if (fate != Fate::kWaits) ++abandoned;
    if (fate != Fate::kAnswered) ++i;
  }
  return abandoned;
}

size_t Backlog::Abandon(const Assignment& picked, uint64_t start_ns, uint64_t now_ns) {
  if (picked.resumes) return AbandonUnfinished(start_ns, now_ns) ? 1 : 0;
  size_t abandoned = 0;
  for (size_t i = picked.queries.size(); i-- > 0;) {  // from behind: the indices in front stay right
    abandoned += AbandonWaiting(picked.queries[i], start_ns, now_ns) != Fate::kWaits ? 1 : 0;
  }
  return abandoned;
}

bool Backlog::AbandonUnfinished(uint64_t start_ns, uint64_t now_ns) {
  Job* job = unfinished_;
  if (job == nullptr || job->ranges_out > 0) return false;
  const uint64_t rest_ns = PredictNs(job->bucket, job->next_operator);
  std::optional<Status> why;
  for (const WaitingQuery& query : job->queries) {
    why = WhyHopeless(query, rest_ns, start_ns, now_ns);
    if (!why) return false;
  }
  if (why->code() == StatusCode::kDeadlineUnreachable) tools_.rounds->ForgetCorrection();
  Finish(job, why->code(), why->message(), now_ns);
  return true;
}

Backlog::Fate Backlog::AbandonWaiting(size_t index, uint64_t start_ns, uint64_t now_ns) {
  const WaitingQuery& query = queue_.waiting()[index];
  const auto why = WhyHopeless(query, has_worker_ ? PredictNs(query.bucket, 0) : 0, start_ns, now_ns);
  if (!why) return Fate::kWaits;
  if (why->code() == StatusCode::kDeadlineUnreachable) {
    tools_.rounds->ForgetCorrection();
    if (has_worker_ && probe_.MayRun(now_ns)) {
      queue_.LetBeLate(index, Probe::kPatienceNs);
      return Fate::kProbes;
    }
  }
  FinishWaiting(queue_.Take(index), why->code(), why->message(), now_ns);
  return Fate::kAnswered;
}

void Backlog::AbandonHeld(Job* job, uint64_t now_ns) {
  if (job->began_ns != 0 || job->failure != StatusCode::kOk) return;
  std::optional<Status> why;
  for (const WaitingQuery& query : job->queries) {
    why = WhyHopeless(query, 0, now_ns, now_ns);
    if (!why) return;
  }
  Fail(job, why->code(), why->message());
}

// --- Jobs ----------------------------------------------------------------------------------------------------------

void Backlog::KeepToOneQuery(Assignment* picked) const {
  if (service_->config.spec.batchable || picked->resumes) return;
  const uint32_t bucket = queue_.waiting()[picked->queries.front()].bucket;
  if (picked->queries.size() == 1 && picked->bucket == bucket) return;
  picked->queries.resize(1);
  picked->bucket = bucket;
  picked->first = 0;
  picked->last = buckets_[picked->bucket].operators;
}

bool Backlog::IsProbe(const Assignment& picked) const {
  if (picked.resumes) return std::ranges::any_of(unfinished_->queries, &WaitingQuery::probe);
  return std::ranges::any_of(picked.queries, [&](uint32_t index) { return queue_.waiting()[index].probe(); });
}

Job* Backlog::Take(const Assignment& assignment) {
  if (assignment.resumes) return unfinished_;
  Job* job = tools_.jobs->New();
  job->service = service_->id;
  job->bucket = assignment.bucket;
  job->operators = buckets_[assignment.bucket].operators;
  job->predicted_ns = PredictNs(job->bucket, 0);
  job->synthetic = true;
  for (const uint32_t index : assignment.queries) {
    job->queries.push_back(queue_.waiting()[index]);
    job->synthetic &= job->queries.back().synthetic;
  }
  for (size_t i = assignment.queries.size(); i-- > 0;) queue_.Take(assignment.queries[i]);
  return job;
}

void Backlog::Sent(Job* job, uint32_t last) {
  // A job that goes on later is planned on from here; the part that was sent counts as done.
  job->next_operator = last;
  ++job->ranges_out;
  unfinished_ = last < job->operators ? job : nullptr;
}

void Backlog::NotSent(Job* job) {
  if (job == unfinished_) return;
  for (const WaitingQuery& query : job->queries) queue_.PutBack(query);
  tools_.jobs->Recycle(job);
}

void Backlog::Fail(Job* job, StatusCode code, const std::string& why) {
  if (unfinished_ == job) unfinished_ = nullptr;
  job->next_operator = job->operators;
  if (job->failure != StatusCode::kOk) return;  // the first failure is the one to tell
  job->failure = code;
  job->failure_text = why;
}

void Backlog::RangeEnded(Job* job, uint32_t last, uint64_t now_ns) {
  --job->ranges_out;
  if (job->failure != StatusCode::kOk) {
    // The worker answers what it still has of the job with errors, too.
    if (job->ranges_out == 0) Finish(job, job->failure, job->failure_text, now_ns);
  } else if (last >= job->operators) {
    Finish(job, StatusCode::kOk, {}, now_ns);
  }
}

void Backlog::WorkerLost(const std::string& why, uint64_t now_ns) {
  has_worker_ = false;
  if (unfinished_ != nullptr) Finish(unfinished_, StatusCode::kWorkerFailed, why, now_ns);
}

void Backlog::Finish(Job* job, StatusCode code, const std::string& message, uint64_t now_ns) {
  if (unfinished_ == job) unfinished_ = nullptr;
  for (const WaitingQuery& query : job->queries) {
    if (query.probe()) {
      probe_.Ended(code == StatusCode::kOk && now_ns <= query.deadline_ns, now_ns);
    } else if (code == StatusCode::kOk) {
      probe_.Completed();
    }
  }
  tools_.accounting->FinishJob(*job, code, message, now_ns);
  tools_.jobs->Recycle(job);
}

void Backlog::FinishWaiting(const WaitingQuery& query, StatusCode code, const std::string& message, uint64_t now_ns) {
  if (query.probe()) probe_.Ended(false, now_ns);
  tools_.accounting->FinishWaiting(query, PredictNs(query.bucket, 0), code, message, now_ns);
}

}  // namespace abacus
