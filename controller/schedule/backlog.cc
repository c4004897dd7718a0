#include "controller/schedule/backlog.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "controller/schedule/hopeless.h"
#include "models/tensor_layout.h"

namespace abacus {

uint64_t Backlog::PredictNs(uint32_t bucket, uint32_t first) const {
  if (bucket >= buckets_.size() || first >= buckets_[bucket].operators) return 0;
  return tools_.rounds->latency().PredictNs({service_->id, bucket, first, buckets_[bucket].operators});
}

void Backlog::SetService(const ServicePtr& service) {
  service_ = service;
  const ModelSpec& spec = service->config.spec;
  const auto largest = static_cast<uint32_t>(spec.batch_sizes.back());
  const uint32_t limit = service->config.max_batch == 0 ? largest : std::min(service->config.max_batch, largest);
  max_batch_ = MayShareBatch(spec) && tools_.batching != Batching::kOff ? limit : 1;
}

// --- Queries -------------------------------------------------------------------------------------------------------

void Backlog::Enqueue(uint32_t slot, uint64_t now_ns) {
  Query& query = (*tools_.table)[slot];
  const ServiceConfig& config = service_->config;
  if (refusing()) {
    tools_.accounting->Refuse(slot, refusing_.code(), refusing_.message(), now_ns);
    return;
  }
  if (size() >= config.queue_limit) {
    tools_.accounting->Refuse(slot, StatusCode::kOverloaded,
                              fmt::format("the queue of {} is full ({} queries); retry later or raise its queue_limit",
                                          config.name, config.queue_limit),
                              now_ns);
    return;
  }
  const ModelSpec& spec = query.service->config.spec;
  const auto largest = static_cast<uint32_t>(spec.batch_sizes.back());
  WaitingQuery part = {.slot = slot,
                       .sequence = query.sequence,
                       .order = query.order,
                       .arrival_ns = query.arrival_ns,
                       .deadline_ns = query.deadline_ns,
                       .synthetic = query.synthetic};
  for (; part.first_row < query.rows; part.first_row += part.rows) {
    part.rows = std::min(query.rows - part.first_row, largest);
    part.bucket = spec.FindBucket(part.rows, part.sequence).value();  // admitted
    queue_.Insert(part);
    ++query.parts_left;
  }
  query.parts_unsent = query.parts_left;
  ++unsent_;
}

void Backlog::Cancel(uint32_t slot, uint64_t now_ns) {
  EndQuery(slot, StatusCode::kCancelled, "cancelled by its client", now_ns);
}

void Backlog::Refuse(StatusCode code, const std::string& why, uint64_t now_ns) {
  refusing_ = Status(code, why);
  if (Job* job = unfinished_; job != nullptr) {
    Fail(job, code, why, now_ns);
    if (job->ranges_out == 0) End(job, now_ns);
  }
  while (queue_.size() > 0) EndQuery(queue_.waiting().front().slot, code, why, now_ns);
}

void Backlog::EndQuery(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns) {
  tools_.accounting->Settle(slot, code, message);
  DropWaiting(slot, now_ns);
  if (!(*tools_.table)[slot].live) return;
  for (Job* job : jobs_) {
    for (WaitingQuery& query : job->queries) query.cancelled |= query.slot == slot;
  }
  EndUnwanted(now_ns);
}

void Backlog::DropWaiting(uint32_t slot, uint64_t now_ns) {
  const Query& query = (*tools_.table)[slot];
  QueryQueue::Places places = queue_.Find(query.deadline_ns, query.order);
  if (places.empty()) places = queue_.Find(query.deadline_ns + Probe::kPatienceNs, query.order);
  queue_.TakePlaces(places, [&](const WaitingQuery& part) {
    PartSent(slot);
    const bool last = tools_.accounting->WaitingEnded(part, PredictNs(part.bucket, 0), now_ns);
    if (last && part.probe()) ProbeEnded(part, /*completed=*/false, now_ns);
  });
}

void Backlog::PartSent(uint32_t slot) {
  if (--(*tools_.table)[slot].parts_unsent == 0) --unsent_;
}

void Backlog::ProbeEnded(const WaitingQuery& query, bool completed, uint64_t now_ns) {
  if (!completed && (*tools_.table)[query.slot].status == StatusCode::kCancelled) {
    probe_.Withdrawn();
  } else {
    probe_.Ended(completed && now_ns <= query.deadline_ns, now_ns);
  }
}

// --- Deadlines -----------------------------------------------------------------------------------------------------

size_t Backlog::Abandon(uint64_t start_ns, uint64_t now_ns) {
  size_t changed = AbandonUnfinished(start_ns, now_ns);
  for (uint32_t i = 0; i < queue_.size();) {
    const std::span<const WaitingQuery> waiting = queue_.waiting();
    uint32_t first_part = i;
    while (first_part > 0 && waiting[first_part - 1].slot == waiting[i].slot) --first_part;
    if (AbandonWaiting(i, start_ns, now_ns) == Fate::kWaits) {
      ++i;
    } else {  // all parts have left this place
      i = first_part;
      ++changed;
    }
  }
  return changed;
}

size_t Backlog::Abandon(const Assignment& picked, uint64_t start_ns, uint64_t now_ns) {
  if (picked.resumes) return AbandonUnfinished(start_ns, now_ns);
  size_t changed = 0;
  for (size_t i = picked.queries.size(); i-- > 0;) {  // from behind: the indices in front stay right
    const uint32_t index = picked.queries[i];
    if (index >= queue_.size()) continue;  // a part that left with another
    changed += AbandonWaiting(index, start_ns, now_ns) != Fate::kWaits ? 1 : 0;
  }
  return changed;
}

size_t Backlog::AbandonUnfinished(uint64_t start_ns, uint64_t now_ns) {
  Job* job = unfinished_;
  if (job == nullptr) return 0;
  const uint64_t rest_ns = PredictNs(job->bucket, job->next_operator);
  size_t changed = 0;
  std::optional<Status> why;
  for (WaitingQuery& query : job->queries) {
    if (query.cancelled) continue;
    const std::optional<Status> hopeless = WhyHopeless(query, rest_ns, start_ns, now_ns);
    changed += query.hopeless != hopeless.has_value() ? 1 : 0;
    query.hopeless = hopeless.has_value();
    if (hopeless) why = hopeless;
  }
  if (job->wanted()) return changed;
  if (why->code() == StatusCode::kDeadlineUnreachable) tools_.rounds->ForgetCorrection();
  Fail(job, why->code(), why->message(), now_ns);
  if (job->ranges_out == 0) End(job, now_ns);
  return changed;
}

Backlog::Fate Backlog::AbandonWaiting(uint32_t index, uint64_t start_ns, uint64_t now_ns) {
  const WaitingQuery query = queue_.waiting()[index];
  const auto why = WhyHopeless(query, has_worker_ ? PredictNs(query.bucket, 0) : 0, start_ns, now_ns);
  if (!why) return Fate::kWaits;
  if (why->code() == StatusCode::kDeadlineUnreachable) {
    tools_.rounds->ForgetCorrection();
    const QueryQueue::Places parts = queue_.Find(query.due_ns(), query.order);
    const bool whole = parts.end - parts.begin == (*tools_.table)[query.slot].parts_left;
    if (has_worker_ && whole && probe_.MayRun(now_ns)) {
      queue_.LetBeLate(index, Probe::kPatienceNs);
      return Fate::kProbes;
    }
  }
  EndQuery(query.slot, why->code(), why->message(), now_ns);
  return Fate::kAnswered;
}

void Backlog::AbandonHeld(Job* job, uint64_t now_ns) {
  if (job->began_ns != 0 || job->failed) return;
  std::optional<Status> why;
  for (const WaitingQuery& query : job->queries) {
    if (query.cancelled) continue;
    why = WhyHopeless(query, 0, now_ns, now_ns);
    if (!why) return;
  }
  if (why) Fail(job, why->code(), why->message(), now_ns);
}

// --- Jobs ----------------------------------------------------------------------------------------------------------

bool Backlog::Holds(uint32_t bucket, const WaitingQuery& query) const {
  if (bucket >= buckets_.size()) return false;
  const ModelSpec& spec = service_->config.spec;
  const Bucket size = spec.bucket(bucket);
  return (spec.batchable ? query.rows <= size.batch : query.rows == size.batch) &&
         (spec.sequence_padding == SequencePadding::kExact ? query.sequence == size.sequence
                                                           : query.sequence <= size.sequence);
}

bool Backlog::MakeSafe(Assignment* picked) const {
  if (picked->resumes) return unfinished_ != nullptr;
  const std::span<const WaitingQuery> waiting = queue_.waiting();
  if (unfinished_ != nullptr || picked->queries.empty() || picked->queries.front() >= waiting.size()) return false;
  const WaitingQuery& lead = waiting[picked->queries.front()];
  uint32_t bucket = Holds(picked->bucket, lead) ? picked->bucket : lead.bucket;
  const bool shares = lead.rows < max_batch_ && !lead.probe();
  const auto most = std::min<uint64_t>(max_batch_, static_cast<uint64_t>(service_->config.spec.bucket(bucket).batch));
  boost::container::static_vector<uint32_t, kMaxJobQueries> kept = {picked->queries.front()};
  for (uint64_t rows = lead.rows; const uint32_t index : picked->queries) {
    if (!shares || index <= kept.back() || index >= waiting.size()) continue;
    const WaitingQuery& query = waiting[index];
    if (rows + query.rows > most || query.probe() || query.synthetic != lead.synthetic || !Holds(bucket, query)) {
      continue;
    }
    rows += query.rows;
    kept.push_back(index);
  }
  if (kept.size() == 1 && picked->queries.size() > 1) bucket = lead.bucket;
  picked->queries = kept;
  if (picked->bucket != bucket) {
    picked->bucket = bucket;
    picked->first = 0;
    picked->last = buckets_[bucket].operators;
  }
  return true;
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
  job->bucket_rows = static_cast<uint32_t>(service_->config.spec.bucket(assignment.bucket).batch);
  job->operators = buckets_[assignment.bucket].operators;
  job->predicted_ns = PredictNs(job->bucket, 0);
  queue_.TakeAll({assignment.queries.data(), assignment.queries.size()}, [&](const WaitingQuery& query) {
    job->rows += query.rows;
    job->queries.push_back(query);
  });
  job->synthetic = job->queries.front().synthetic;  // as all are
  return job;
}

void Backlog::Sent(Job* job, uint32_t last) {
  if (std::ranges::find(jobs_, job) == jobs_.end()) jobs_.push_back(job);
  ++job->ranges_out;
  if (last >= job->operators) {
    NoMoreOf(job);
  } else {  // it is planned on from here; the part that was sent counts as done
    job->next_operator = last;
    unfinished_ = job;
  }
}

void Backlog::NotSent(Job* job) {
  if (job == unfinished_) return;
  for (const WaitingQuery& query : job->queries) queue_.Insert(query);
  tools_.jobs->Recycle(job);
}

void Backlog::NoMoreOf(Job* job) {
  if (unfinished_ == job) unfinished_ = nullptr;
  if (job->next_operator == job->operators) return;
  job->next_operator = job->operators;
  for (const WaitingQuery& query : job->queries) PartSent(query.slot);
}

void Backlog::Fail(Job* job, StatusCode code, const std::string& why, uint64_t now_ns) {
  if (std::exchange(job->failed, true)) return;  // the first failure is the one to tell
  NoMoreOf(job);
  for (const WaitingQuery& query : job->queries) {
    if (!query.cancelled) EndQuery(query.slot, code, why, now_ns);
  }
}

void Backlog::EndUnwanted(uint64_t now_ns) {
  for (size_t i = 0; i < jobs_.size();) {
    Job* job = jobs_[i];
    if (job->next_operator == job->operators || !std::ranges::all_of(job->queries, &WaitingQuery::cancelled)) {
      ++i;
      continue;
    }
    job->failed = true;
    NoMoreOf(job);
    if (job->ranges_out > 0) {
      ++i;
    } else {
      End(job, now_ns);
    }
  }
}

void Backlog::RangeEnded(Job* job, uint32_t last, uint64_t now_ns) {
  --job->ranges_out;
  // The worker answers what it still has of a failed job with errors, too.
  if (job->failed ? job->ranges_out == 0 : last >= job->operators) End(job, now_ns);
}

void Backlog::WorkerLost(const std::string& why, uint64_t now_ns) {
  has_worker_ = false;
  while (!jobs_.empty()) {
    Job* job = jobs_.back();
    Fail(job, StatusCode::kWorkerFailed, why, now_ns);
    End(job, now_ns);
  }
}

void Backlog::End(Job* job, uint64_t now_ns) {
  jobs_.erase(std::ranges::find(jobs_, job));
  const bool completed = !job->failed;
  if (completed) tools_.accounting->CountJob(*job);
  for (const WaitingQuery& query : job->queries) {
    const bool last = tools_.accounting->MemberEnded(query, *job, now_ns);
    if (query.probe()) {
      if (last) ProbeEnded(query, completed, now_ns);
    } else if (completed) {
      probe_.Completed();
    }
  }
  tools_.jobs->Recycle(job);
}

}  // namespace abacus
