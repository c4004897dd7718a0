#include "controller/schedule/lane.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "controller/schedule/hopeless.h"

namespace abacus {
namespace {

constexpr uint64_t kFatalExitNs = 2 * kNsPerSecond;  // that a worker may take to exit after a fatal error

}  // namespace

Lane::Lane(LaneId id, const Context* context, ServicePredictor predictor)
    : id_(id),
      context_(*context),
      predictor_(std::move(predictor)),
      rounds_(id, &context_.region->lane(id), context_.trace, &predictor_.model(), predictor_.solo(),
              context_.config.margin.value_or(predictor_.StartMargin()), context_.config.lead_us * kNsPerUs,
              [this] { return std::ranges::all_of(services_, &ServiceState::settled); }),
      tools_{.rounds = &rounds_,
             .accounting = context_.accounting,
             .jobs = &jobs_,
             .table = context_.table,
             .batching = context_.config.batching} {
  predictor_.Describe(&context_.region->lane(id).predictor);
}

void Lane::SetService(const ServicePtr& service) {
  ServiceState*& state = by_id_[service->id.value()];
  if (state == nullptr) state = &services_.emplace_back(service, context_.region, &tools_);
  state->service = service;
  state->backlog.SetService(service);
}

// --- Workers -------------------------------------------------------------------------------------------------------

bool Lane::HandleEvent(const WorkerEvent& event, uint64_t now_ns) {
  const auto state = std::ranges::find_if(
      services_, [&](const ServiceState& candidate) { return candidate.service->worker == event.worker.id; });
  if (state == services_.end()) return false;
  switch (event.kind) {
    case WorkerEvent::kUp:
      WorkerUp(&*state, event.worker.generation);
      break;
    case WorkerEvent::kDown:
      WorkerDown(&*state, event, now_ns);
      break;
    case WorkerEvent::kGaveUp:
      state->backlog.Refuse(StatusCode::kWorkerFailed, event.message, now_ns);
      break;
    case WorkerEvent::kShutDown:
      state->backlog.Refuse(StatusCode::kShuttingDown, event.message, now_ns);
      break;
  }
  return true;
}

void Lane::WorkerUp(ServiceState* state, uint32_t generation) {
  state->generation = generation;
  const ServiceConfig& config = state->service->config;
  auto ranges = ReadWorkerRanges(state->slot, config.spec.bucket_count());
  if (!ranges) {
    Condemn(state, ranges.error().message());
    return;
  }
  predictor_.WorkerUp(
      state->service->id, config.name, config.spec,
      {LoadText(state->slot.device_name), LoadText(state->slot.libraries), LoadText(state->slot.structure), *ranges});
  predictor_.Describe(&context_.region->lane(id_).predictor);
  state->backlog.SetBuckets(std::move(*ranges));
  state->backlog.StopRefusing();
  state->serving = true;
  state->link.Up();
}

void Lane::WorkerDown(ServiceState* state, const WorkerEvent& event, uint64_t now_ns) {
  if (event.worker.generation < state->generation) return;  // of a process that has a successor already
  while (PopCompletion(state, now_ns)) {                    // what it finished before it died counts
  }
  state->serving = false;
  state->condemned = false;
  state->fatal_ns = 0;
  // As they were when it died: the end of the first range may start the round of the second.
  boost::container::static_vector<bool, kMaxSent> held;
  for (const ServiceState::Link::Sent& sent : state->link.sent()) held.push_back(rounds_.IsNext(sent.tag.round));
  for (const bool never_began : held) {
    const ServiceState::Link::Sent sent = state->link.sent().front();
    state->link.Forget();
    rounds_.Disturb(sent.tag.round);
    state->backlog.Fail(sent.tag.job, StatusCode::kWorkerFailed, event.message, now_ns);
    RangeEnded(state, sent, !never_began, now_ns);
  }
  state->backlog.WorkerLost(event.message, now_ns);
  state->link.Down();
  context_.control->SlotReleased(event.worker);
}

void Lane::Condemn(ServiceState* state, const std::string& why) {
  if (state->condemned) return;
  state->condemned = true;
  state->serving = false;
  context_.control->Condemn(state->worker(), why);
}

void Lane::CheckWorker(ServiceState* state, uint64_t now_ns) {
  if (!state->link.idle()) {
    const ServiceState::Link::Sent& oldest = state->link.sent().front();
    const bool gated = rounds_.IsRunning(oldest.tag.round);
    const uint64_t since_ns = gated ? rounds_.started_ns() : oldest.sent_ns;
    const bool may_run = oldest.tag.round == 0 || gated;
    if (may_run && now_ns > since_ns + context_.round_timeout_ns) {
      Condemn(state, "has not finished a range within round_timeout_ms (" + MsText(context_.round_timeout_ns) + ")");
    }
  }
  if (state->fatal_ns != 0 && now_ns > state->fatal_ns + kFatalExitNs) {
    Condemn(state, "reported a fatal error and has not exited");
  }
  state->stats.queued.store(state->backlog.size(), std::memory_order_relaxed);
  state->stats.running.store(state->link.sent().size(), std::memory_order_relaxed);
}

// --- Completions ---------------------------------------------------------------------------------------------------

size_t Lane::HandleCompletions(uint64_t now_ns) {
  size_t handled = 0;
  for (ServiceState& state : services_) {
    while (!state.link.idle() && PopCompletion(&state, now_ns)) ++handled;
  }
  return handled;
}

bool Lane::PopCompletion(ServiceState* state, uint64_t now_ns) {
  Completion completion;
  ServiceState::Link::Sent sent;
  const auto answer = state->link.Take(&completion, &sent);
  if (answer == ServiceState::Link::Answer::kNone) return false;
  if (answer == ServiceState::Link::Answer::kNonsense) {
    Condemn(state, "answered a command that was not given");
    return false;
  }
  Job* job = sent.tag.job;
  const uint64_t begin_ns = BeganNs(sent, now_ns);
  const auto status = static_cast<StatusCode>(completion.status);
  BumpOwned(state->stats.ranges);
  const TraceEvent event = {.kind = TraceEvent::kRange,
                            .status = status,
                            .service = job->service,
                            .bucket = job->bucket,
                            .first = sent.first,
                            .last = sent.last,
                            .queries = static_cast<uint32_t>(job->queries.size()),
                            .rows = job->rows,
                            .bucket_rows = job->bucket_rows,
                            .round = sent.tag.round,
                            .id = job->id,
                            .begin_ns = begin_ns,
                            .end_ns = now_ns,
                            .gpu_started_ns = completion.gpu_started_ns,
                            .gpu_ended_ns = completion.gpu_ended_ns};
  if (status != StatusCode::kOk) {  // also before its round: what it continues had failed
    rounds_.Disturb(sent.tag.round);
    state->backlog.Fail(job, StatusCode::kWorkerFailed, LoadText(state->slot.error), now_ns);
    if (completion.fatal != 0) {
      state->serving = false;
      state->fatal_ns = now_ns;
      state->backlog.KeepUntilWorkerLost(job);
    }
  } else if (rounds_.IsNext(sent.tag.round)) {
    rounds_.Disturb(sent.tag.round);
    state->backlog.Fail(job, StatusCode::kWorkerFailed, "its worker ran a range before its round", now_ns);
    Condemn(state, "ran a range before its round");
  } else if (sent.tag.round == 0) {
    rounds_.FreeRangeEnded({job->service, job->bucket, sent.first, sent.last}, now_ns - begin_ns);
  }
  RangeEnded(state, sent, !rounds_.IsNext(sent.tag.round), now_ns);
  context_.trace->Add(event);  // after the next round has started: it may have to wait for a lock
  return true;
}

uint64_t Lane::BeganNs(const ServiceState::Link::Sent& sent, uint64_t now_ns) const {
  if (sent.tag.round == 0) return sent.sent_ns;
  return rounds_.IsRunning(sent.tag.round) ? rounds_.started_ns() : now_ns;
}

void Lane::RangeEnded(ServiceState* state, const ServiceState::Link::Sent& sent, bool began, uint64_t now_ns) {
  Job* job = sent.tag.job;
  if (began) {
    const uint64_t began_ns = BeganNs(sent, now_ns);
    if (job->began_ns == 0) job->began_ns = began_ns;
    job->executed_ns += now_ns - began_ns;
    ++job->rounds;
  }
  // First: the GPU waits for the next round.
  if (sent.tag.round != 0) rounds_.RangeEnded(sent.tag.round, state->service->id, now_ns);
  state->backlog.RangeEnded(job, sent.last, now_ns);
}

// --- Queries -------------------------------------------------------------------------------------------------------

void Lane::Enqueue(uint32_t slot, uint64_t now_ns) {
  const Query& query = (*context_.table)[slot];
  // The front end may have taken a new set over before we have.
  if (by_id_[query.service->id.value()] == nullptr) SetService(query.service);
  context_.accounting->Accept(slot, next_order_++);
  Of(query.service->id).backlog.Enqueue(slot, now_ns);
}

void Lane::Cancel(uint32_t slot, uint64_t now_ns) {
  Of((*context_.table)[slot].service->id).backlog.Cancel(slot, now_ns);
}

size_t Lane::HandleOverdue(uint64_t now_ns) {
  // Nothing that waits can start before the running round has ended.
  const uint64_t start_ns = rounds_.EarliestStartNs(now_ns);
  size_t handled = 0;
  for (ServiceState& state : services_) {
    if (context_.config.abandon) {
      handled += state.backlog.Abandon(start_ns, now_ns);
      for (const ServiceState::Link::Sent& sent : state.link.sent()) {
        if (rounds_.IsNext(sent.tag.round)) state.backlog.AbandonHeld(sent.tag.job, now_ns);
      }
    }
    CheckWorker(&state, now_ns);
  }
  return handled;
}

// --- Planning ------------------------------------------------------------------------------------------------------

size_t Lane::PlanAndDispatch(uint64_t now_ns) {
  return context_.policy->in_rounds() ? PlanRound(now_ns) : PlanFree(now_ns);
}

Plan Lane::Next(uint64_t start_ns, uint64_t now_ns) {
  wake_ns_ = UINT64_MAX;
  for (;;) {
    bool any_work = false;
    views_.clear();
    for (const ServiceState& state : services_) {
      const bool over = !context_.policy->in_rounds() && !state.link.idle();
      views_.push_back(state.View(over ? state.link.sent().front().tag.job : nullptr));
      any_work |= state.serving && views_.back().has_work();
    }
    if (!any_work) return {};
    Plan plan = context_.policy->Next({start_ns, views_, &rounds_.latency(), rounds_.margin()});
    auto& picks = plan.assignments;
    const auto unsafe = [&](Assignment& picked) { return !Of(picked.service).backlog.MakeSafe(&picked); };
    picks.erase(std::remove_if(picks.begin(), picks.end(), unsafe), picks.end());
    size_t abandoned = 0;
    for (const Assignment& picked : picks) {
      if (context_.config.abandon) abandoned += Of(picked.service).backlog.Abandon(picked, start_ns, now_ns);
    }
    if (abandoned > 0) continue;
    wake_ns_ = plan.wake_ns;
    return plan;
  }
}

void Lane::ShortenProbe(Assignment* probe) {
  const auto with_margin_ns = [&](const OperatorRange& range) {
    const uint64_t ns = rounds_.latency().PredictNs(range);
    return ns + AdaptiveMargin::Of(ns, rounds_.margin());
  };
  uint64_t headroom_ns = UINT64_MAX;
  for (const ServiceState& state : services_) {
    if (!state.serving || state.service->id == probe->service) continue;
    const uint64_t target_ns = state.service->config.qos_ns;
    for (uint32_t b = 0; b < state.backlog.buckets().size(); ++b) {
      const uint64_t needed_ns = with_margin_ns({state.service->id, b, 0, state.backlog.buckets()[b].operators});
      if (needed_ns < target_ns) headroom_ns = std::min(headroom_ns, target_ns - needed_ns);
    }
  }
  const std::vector<uint32_t>& cuts = Of(probe->service).backlog.buckets()[probe->bucket].cuts;
  OperatorRange piece = probe->range();
  auto cut = std::ranges::upper_bound(cuts, probe->first);
  for (probe->last = *cut; ++cut != cuts.end(); probe->last = *cut) {
    piece.last = *cut;
    if (with_margin_ns(piece) > headroom_ns) return;
  }
}

Round::Reason Lane::ReasonOf(const Plan& plan) const {
  Round::Reason reason;
  reason.worth_per_time = plan.worth_per_time;
  if (plan.urgent_order == 0) return reason;
  reason.order = plan.urgent_order;
  const auto look_at = [&](const ServiceState& state, const WaitingQuery& query) {
    if (query.order != plan.urgent_order) return;
    reason.service = state.service->id;
    reason.query = (*context_.table)[query.slot].id;
  };
  for (const Assignment& picked : plan.assignments) {
    const ServiceState& state = Of(picked.service);
    if (picked.resumes) {
      for (const WaitingQuery& query : state.backlog.unfinished()->queries) look_at(state, query);
    }
    for (const uint32_t index : picked.queries) look_at(state, state.backlog.waiting()[index]);
  }
  return reason;
}

size_t Lane::PlanRound(uint64_t now_ns) {
  if (!rounds_.MayPlan(now_ns)) return 0;
  Plan plan = Next(rounds_.StartNs(now_ns), now_ns);
  if (plan.assignments.empty()) return 0;
  if (plan.assignments.size() == 1 && Of(plan.assignments[0].service).backlog.IsProbe(plan.assignments[0])) {
    ShortenProbe(&plan.assignments[0]);
  }
  boost::container::static_vector<OperatorRange, kMaxServices> group;
  for (const Assignment& assignment : plan.assignments) group.push_back(assignment.range());
  Round round = rounds_.Plan({group.data(), group.size()}, now_ns);
  if (context_.config.trace_events > 0) round.reason = ReasonOf(plan);
  uint32_t sent = 0;
  for (const Assignment& assignment : plan.assignments) sent += Dispatch(assignment, round, now_ns) ? 1 : 0;
  rounds_.Sent(round, sent, plan.assignments.size(), context_.clock);
  return sent;
}

size_t Lane::PlanFree(uint64_t now_ns) {
  size_t dispatched = 0;
  for (;;) {
    const Plan plan = Next(now_ns, now_ns);
    bool replan = false;
    for (const Assignment& assignment : plan.assignments) {
      Dispatch(assignment, {}, now_ns) ? ++dispatched : replan = true;
    }
    if (!replan) return dispatched;
  }
}

bool Lane::Dispatch(const Assignment& assignment, const Round& round, uint64_t now_ns) {
  ServiceState& state = Of(assignment.service);
  Job* job = state.backlog.Take(assignment);
  Command command;
  command.kind = Command::kRun;
  command.flags = job->synthetic ? uint32_t{Command::kSynthetic} : 0u;
  command.job_id = job->id;
  command.bucket = job->bucket;
  command.first = assignment.first;
  command.last = assignment.last;
  command.gate = round.gate;
  command.sent_ns = now_ns;
  boost::container::static_vector<JobQuery, kMaxJobQueries> queries;
  for (const WaitingQuery& query : job->queries) {
    if (job->synthetic) break;
    const Query& whole = (*context_.table)[query.slot];
    queries.push_back({.block_offset = whole.block.offset_bytes,
                       .block_bytes = whole.block.bytes,
                       .rows = query.rows,
                       .sequence = query.sequence,
                       .first_row = query.first_row,
                       .query_rows = whole.rows});
  }
  if (!state.link.Send(command, {queries.data(), queries.size()}, {job, round.number})) {
    state.backlog.NotSent(job);
    Condemn(&state, "does not take commands: its ring is full or damaged");
    return false;
  }
  state.backlog.Sent(job, assignment.last);
  Log(LogLevel::kDebug, "job {} of {}: {} queries, {} rows, bucket {}, operators [{}, {}), round {}", job->id,
      state.service->config.name, job->queries.size(), job->rows, job->bucket, assignment.first, assignment.last,
      round.number);
  return true;
}

}  // namespace abacus
