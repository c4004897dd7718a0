#include "controller/scheduler_loop.h"

#include <algorithm>
#include <array>
#include <span>
#include <tuple>

#include "shm/clock.h"
#include "shm/log.h"

namespace abacus {
namespace {

constexpr uint64_t kOverdueCheckNs = kNsPerMs;       // how often waiting deadlines and running ranges are looked at
constexpr uint64_t kFatalExitNs = 2 * kNsPerSecond;  // that a worker may take to exit after a fatal error
constexpr uint64_t kPrepareNs = 50 * kNsPerUs;       // that workers need to have a round ready
constexpr size_t kSubmitBatch = 64;                  // new queries per iteration, so completions are never far away

static_assert(CorrectedModel::kSizes == std::tuple_size_v<decltype(PredictorStats::factor_ppm)>);

std::string Ms(uint64_t ns) {
  const uint64_t hundredths = ns / (10 * kNsPerUs);
  const std::string fraction = std::to_string(hundredths % 100);
  return std::to_string(hundredths / 100) + (fraction.size() == 1 ? ".0" : ".") + fraction + " ms";
}

uint64_t RemainingNs(const Job& job, const LatencyModel& model) {
  if (job.next_operator >= job.operators) return 0;
  return model.PredictNs({job.service, job.bucket, job.next_operator, job.operators});
}

}  // namespace

SchedulerLoop::SchedulerLoop(const Config& config, Region* region, QueryTable* table, QueryChannel* channel,
                             std::unique_ptr<Policy> policy, ServicePredictor predictor, WorkerControl* control,
                             std::function<void()> wake_front_end, std::function<uint64_t()> clock)
    : config_(config),
      region_(region),
      table_(*table),
      channel_(*channel),
      policy_(std::move(policy)),
      control_(control),
      wake_front_end_(std::move(wake_front_end)),
      clock_(std::move(clock)),
      bell_(&region->header().controller_bell),
      services_(config.services.size()),
      views_(config.services.size()),
      predictor_(std::move(predictor)),
      latency_(&predictor_.model()),
      margin_(config.scheduler.margin.value_or(predictor_.StartMargin())),
      gate_(&region->header().gate),
      lead_ns_(config.scheduler.lead_us * kNsPerUs),
      trace_(config.scheduler.trace_events) {
  for (size_t i = 0; i < services_.size(); ++i) {
    services_[i].config = &config.services[i];
    services_[i].block = &region->worker(i);
    services_[i].link.Attach(&region->worker(i));
    services_[i].why_down = "its worker has not started yet";
  }
  predictor_.Describe(&region->header().predictor);
}

void SchedulerLoop::Post(WorkerEvent event) {
  {
    const std::lock_guard lock(events_mutex_);
    events_.push_back(std::move(event));
  }
  has_events_.store(true, std::memory_order_release);
  bell_.Ring();
}

void SchedulerLoop::Run(const std::atomic<bool>& stop) {
  const uint64_t spin_ns = config_.scheduler.spin_us * kNsPerUs;
  while (!stop.load(std::memory_order_acquire)) {
    const uint32_t ticket = bell_.Ticket();
    const uint64_t now_ns = MonotonicNs();
    region_->header().heartbeat_ns.store(now_ns, std::memory_order_relaxed);
    if (DoWork(now_ns) > 0) continue;
    const uint64_t idle_ns = IdleNs(now_ns);
    // Where cores are to spare, a running round is waited for awake: waking up takes longer than starting the next.
    bell_.Wait(ticket, idle_ns, running_.number != 0 && spin_ns > 0 ? idle_ns : spin_ns);
  }
}

uint64_t SchedulerLoop::IdleNs(uint64_t now_ns) const {
  if (InFlight() == 0) return kHeartbeatNs;
  uint64_t until_ns = now_ns + kOverdueCheckNs;
  if (running_.number != 0 && next_.number == 0 && running_.end_ns() > now_ns + lead_ns_) {
    until_ns = std::min(until_ns, running_.end_ns() - lead_ns_);
  }
  return until_ns - now_ns;
}

size_t SchedulerLoop::DoWork(uint64_t now_ns) {
  size_t work = HandleCompletions(now_ns);
  work += HandleEvents(now_ns);
  work += HandleSubmitted(now_ns);
  work += HandleOverdue(now_ns);
  work += PlanAndDispatch(now_ns);
  if (!finished_.empty()) {
    channel_.done.push(finished_.data(), finished_.size());  // has room for every accepted query
    finished_.clear();
    wake_front_end_();
  }
  return work;
}

size_t SchedulerLoop::HandleEvents(uint64_t now_ns) {
  if (!has_events_.exchange(false, std::memory_order_acquire)) return 0;
  std::vector<WorkerEvent> events;
  {
    const std::lock_guard lock(events_mutex_);
    events.swap(events_);
  }
  for (const WorkerEvent& event : events) {
    switch (event.kind) {
      case WorkerEvent::kUp:
        WorkerUp(event.worker);
        break;
      case WorkerEvent::kDown:
        WorkerDown(event.worker, event.message, now_ns);
        break;
      case WorkerEvent::kGaveUp:
        RefuseWaiting(event.worker, StatusCode::kWorkerFailed, event.message, now_ns);
        break;
      case WorkerEvent::kShutDown:
        RefuseWaiting(event.worker, StatusCode::kShuttingDown, event.message, now_ns);
        break;
    }
  }
  return events.size();
}

void SchedulerLoop::WorkerUp(uint32_t index) {
  Service& service = services_[index];
  auto ranges = ReadWorkerRanges(*service.block, service.config->spec.bucket_count());
  if (!ranges) {
    Condemn(&service, ranges.error().message());
    return;
  }
  service.buckets = std::move(*ranges);
  predictor_.WorkerUp(index, service.config->name, service.config->spec, LoadText(service.block->device_name),
                      LoadText(service.block->libraries), service.buckets);
  predictor_.Describe(&region_->header().predictor);
  service.serving = true;
  service.refusing = false;
  service.block->state.store(static_cast<uint32_t>(WorkerState::kServing), std::memory_order_release);
  for (Job* job : service.queue.waiting()) LearnBucket(job);
}

void SchedulerLoop::WorkerDown(uint32_t index, const std::string& why, uint64_t now_ns) {
  Service& service = services_[index];
  while (PopCompletion(&service, now_ns)) {  // what it finished before it died counts
  }
  service.serving = false;
  service.condemned = false;
  service.fatal_ns = 0;
  service.why_down = why;
  while (!service.link.idle()) {
    const Link::Sent sent = service.link.sent().front();
    service.link.Forget();
    Disturb(sent.tag.round);
    Fail(sent.tag.job, StatusCode::kWorkerFailed, why);
    RangeEnded(sent.tag.job, sent, now_ns);
  }
  // A job that ran in part lost its state with the process.
  std::vector<Job*> partial;
  for (Job* job : service.queue.waiting()) {
    if (job->next_operator > 0) partial.push_back(job);
  }
  for (Job* job : partial) FinishWaiting(job, StatusCode::kWorkerFailed, why, now_ns);
  service.link.Reset();
  service.block->state.store(static_cast<uint32_t>(WorkerState::kExited), std::memory_order_release);
  control_->BlockReleased(index);
}

void SchedulerLoop::RefuseWaiting(uint32_t index, StatusCode code, const std::string& why, uint64_t now_ns) {
  Service& service = services_[index];
  service.refusing = true;
  service.refusal = code;
  service.why_down = why;
  while (service.queue.size() > 0) {
    Job* job = service.queue.waiting().front();
    job->in_flight > 0 ? Fail(job, code, why) : FinishWaiting(job, code, why, now_ns);
  }
}

void SchedulerLoop::Condemn(Service* service, const std::string& why) {
  if (service->condemned) return;
  service->condemned = true;
  service->serving = false;
  control_->Condemn(static_cast<uint32_t>(service - services_.data()), why);
}

size_t SchedulerLoop::HandleCompletions(uint64_t now_ns) {
  size_t handled = 0;
  for (Service& service : services_) {
    while (!service.link.idle() && PopCompletion(&service, now_ns)) ++handled;
  }
  return handled;
}

bool SchedulerLoop::PopCompletion(Service* service, uint64_t now_ns) {
  Completion completion;
  Link::Sent sent;
  const Link::Answer answer = service->link.Take(&completion, &sent);
  if (answer == Link::Answer::kNone) return false;
  if (answer == Link::Answer::kNonsense) {
    Condemn(service, "answered a command that was not given");
    return false;
  }
  Job* job = sent.tag.job;
  const uint64_t begin_ns = sent.tag.round != 0 ? running_.started_ns : sent.sent_ns;
  const auto status = static_cast<StatusCode>(completion.status);
  BumpOwned(service->block->stats.rounds);
  job->executed_ns += now_ns - begin_ns;
  ++job->rounds;
  const TraceEvent event = {.kind = TraceEvent::kRange,
                            .status = status,
                            .service = job->service,
                            .bucket = job->bucket,
                            .first = sent.first,
                            .last = sent.last,
                            .round = sent.tag.round,
                            .id = job->id,
                            .begin_ns = begin_ns,
                            .end_ns = now_ns,
                            .gpu_started_ns = completion.gpu_started_ns,
                            .gpu_ended_ns = completion.gpu_ended_ns};
  if (status != StatusCode::kOk) {  // also before its round: what it continues had failed
    Disturb(sent.tag.round);
    Fail(job, StatusCode::kWorkerFailed, LoadText(service->block->error));
    if (completion.fatal != 0) {
      service->serving = false;
      service->fatal_ns = now_ns;
    }
  } else if (sent.tag.round != 0 && sent.tag.round == next_.number) {
    Disturb(sent.tag.round);
    Fail(job, StatusCode::kWorkerFailed, "its worker ran a range before its round");
    Condemn(service, "ran a range before its round");
  }
  RangeEnded(job, sent, now_ns);
  trace_.Add(event);  // after the next round has started: it may have to wait for a lock
  return true;
}

void SchedulerLoop::Disturb(uint64_t round) {
  if (round == running_.number) running_.disturbed = true;
  if (round == next_.number) next_.disturbed = true;
}

void SchedulerLoop::Fail(Job* job, StatusCode code, const std::string& why) {
  if (job->next_operator < job->operators) {
    services_[job->service].queue.Remove(job);
    job->next_operator = job->operators;
  }
  if (job->failure != StatusCode::kOk) return;  // the first failure is the one to tell
  job->failure = code;
  job->failure_text = why;
}

void SchedulerLoop::RangeEnded(Job* job, const Link::Sent& sent, uint64_t now_ns) {
  if (sent.tag.round != 0) EndRangeOfRound(sent.tag.round, now_ns);  // first: the GPU waits for the next round
  --job->in_flight;
  if (job->failure != StatusCode::kOk) {
    // The worker answers what it still has of the job with errors, too.
    if (job->in_flight == 0) FinishJob(job, job->failure, job->failure_text, now_ns);
  } else if (sent.last >= job->operators) {
    FinishJob(job, StatusCode::kOk, {}, now_ns);
  }
}

void SchedulerLoop::EndRangeOfRound(uint64_t round, uint64_t now_ns) {
  if (round == next_.number) {  // its worker died, or what it continues had failed
    --next_.pending;
    return;
  }
  if (--running_.pending > 0) return;
  const Round ended = running_;
  running_ = {};
  StartRound(now_ns);
  RecordRound(ended, now_ns);
}

// Makes the next round the running one, if there is one.
void SchedulerLoop::StartRound(uint64_t now_ns) {
  if (next_.number == 0) return;
  gate_.Open(next_.gate);  // in any case: a worker that is about to end may still hold a range back
  if (next_.pending > 0) {
    running_ = next_;
    running_.started_ns = now_ns;
  }
  next_ = {};
}

void SchedulerLoop::RecordRound(const Round& round, uint64_t now_ns) {
  const uint64_t actual_ns = now_ns - round.started_ns;
  trace_.Add({.kind = TraceEvent::kRound,
              .trained = round.predicted.trained,
              .ranges = round.ranges,
              .round = round.number,
              .begin_ns = round.started_ns,
              .end_ns = now_ns,
              .predicted_ns = round.end_ns() - round.started_ns,
              .margin_ns = AdaptiveMargin::Of(round.predicted.ns, round.margin)});
  if (round.disturbed || round.predicted.ns == 0) return;
  PredictorStats& stats = region_->header().predictor;
  const uint64_t group_ns = actual_ns - std::min(actual_ns, round.start_cost_ns);
  const bool over = margin_.Record(round.predicted.ns, group_ns, round.margin);
  Learn(round, actual_ns);
  BumpOwned(stats.rounds);
  if (over) BumpOwned(stats.rounds_over);
  if (!round.predicted.trained) BumpOwned(stats.rounds_untrained);
  if (round.ranges > 1) BumpOwned(stats.rounds_several);
  stats.margin_ppm.store(static_cast<uint32_t>(margin_.share() * 1e6), std::memory_order_relaxed);
  stats.error_ppm.store(static_cast<uint32_t>(margin_.error() * 1e6), std::memory_order_relaxed);
  for (size_t i = 0; i < CorrectedModel::kSizes; ++i) {
    stats.factor_ppm[i].store(static_cast<uint32_t>(latency_.factors()[i] * 1e6), std::memory_order_relaxed);
  }
  stats.start_ns.store(latency_.start_ns(), std::memory_order_relaxed);
}

void SchedulerLoop::Learn(const Round& round, uint64_t actual_ns) {
  // A worker that loads its model works on the same GPU.
  const auto settled = [](const Service& service) { return service.serving || service.refusing; };
  if (!std::all_of(services_.begin(), services_.end(), settled)) return;
  if (!round.ahead) {
    latency_.RecordStart(round.predicted, actual_ns);
  } else if (round.planned_ns + kPrepareNs <= round.started_ns) {
    latency_.Record(round.ranges, round.predicted, actual_ns);
  }
}

size_t SchedulerLoop::HandleSubmitted(uint64_t now_ns) {
  std::array<uint32_t, kSubmitBatch> slots;
  const size_t count = channel_.submitted.pop(slots.data(), slots.size());
  for (const uint32_t slot : std::span(slots.data(), count)) {
    const Query& query = table_[slot];
    Service& service = services_[query.service];
    in_flight_.fetch_add(1, std::memory_order_relaxed);
    BumpOwned(service.block->stats.accepted);
    if (service.refusing) {
      FinishQuery(slot, service.refusal, service.why_down, now_ns);
      continue;
    }
    if (service.queue.size() >= service.config->queue_limit) {
      FinishQuery(slot, StatusCode::kOverloaded,
                  "the queue of " + service.config->name + " is full (" + std::to_string(service.config->queue_limit) +
                      " queries); retry later or raise its queue_limit",
                  now_ns);
      continue;
    }
    Job* job = NewJob();
    job->service = query.service;
    job->bucket = query.bucket;
    job->queries.push_back(slot);
    job->arrival_ns = query.arrival_ns;
    job->deadline_ns = query.deadline_ns;
    job->block_offset = query.block.offset_bytes;
    job->block_bytes = query.block.bytes;
    job->synthetic = query.synthetic;
    if (service.serving) LearnBucket(job);
    service.queue.PushBack(job);
  }
  return count;
}

void SchedulerLoop::LearnBucket(Job* job) {
  const WorkerRanges& ranges = services_[job->service].buckets[job->bucket];
  job->operators = ranges.operators;
  job->solo_ns = ranges.solo_ns;
  job->cuts = ranges.cuts;
}

bool SchedulerLoop::Abandon(Job* job, uint64_t start_ns, uint64_t now_ns) {
  if (!config_.scheduler.abandon || job->in_flight > 0) return false;
  if (job->deadline_ns < now_ns) {
    FinishWaiting(
        job, StatusCode::kDeadlineExceeded,
        "waited " + Ms(now_ns - job->arrival_ns) + ", its target was " + Ms(job->deadline_ns - job->arrival_ns),
        now_ns);
    return true;
  }
  const uint64_t remaining_ns = RemainingNs(*job, latency_);
  if (start_ns + remaining_ns > job->deadline_ns) {
    latency_.Forget();  // so that it cannot go on for ever
    const uint64_t predicted_ns = start_ns - job->arrival_ns + remaining_ns;
    FinishWaiting(job, StatusCode::kDeadlineUnreachable,
                  "predicted latency " + Ms(predicted_ns) + ", its target is " + Ms(job->deadline_ns - job->arrival_ns),
                  now_ns);
    return true;
  }
  return false;
}

size_t SchedulerLoop::HandleOverdue(uint64_t now_ns) {
  if (now_ns < next_overdue_check_ns_) return 0;
  next_overdue_check_ns_ = now_ns + kOverdueCheckNs;
  size_t handled = 0;
  // Nothing that waits can start before the running round has ended.
  const uint64_t start_ns = running_.number != 0 ? std::max(now_ns, running_.end_ns()) : now_ns;
  for (Service& service : services_) {
    for (size_t i = 0; i < service.queue.size();) {
      if (Abandon(service.queue.waiting()[i], start_ns, now_ns)) {
        ++handled;
      } else {
        ++i;
      }
    }
    if (!service.link.idle()) {
      const Link::Sent& oldest = service.link.sent().front();
      const bool gated = oldest.tag.round != 0 && oldest.tag.round == running_.number;
      const uint64_t since_ns = gated ? running_.started_ns : oldest.sent_ns;
      const bool may_run = oldest.tag.round == 0 || gated;
      if (may_run && now_ns > since_ns + config_.worker.round_timeout_ns) {
        Condemn(&service,
                "has not finished a range within round_timeout_ms (" + Ms(config_.worker.round_timeout_ns) + ")");
      }
    }
    if (service.fatal_ns != 0 && now_ns > service.fatal_ns + kFatalExitNs) {
      Condemn(&service, "reported a fatal error and has not exited");
    }
    service.block->stats.queued.store(service.queue.size(), std::memory_order_relaxed);
    service.block->stats.in_flight.store(service.link.sent().size(), std::memory_order_relaxed);
  }
  return handled;
}

size_t SchedulerLoop::PlanAndDispatch(uint64_t now_ns) {
  return policy_->in_rounds() ? PlanRound(now_ns) : PlanFree(now_ns);
}

bool SchedulerLoop::TakeSnapshot(uint64_t start_ns, Snapshot* snapshot) {
  bool any_waiting = false;
  for (size_t i = 0; i < services_.size(); ++i) {
    const Service& service = services_[i];
    // Within a round all workers are idle once it starts.
    const bool running = !policy_->in_rounds() && !service.link.idle();
    views_[i] = {service.serving, running ? service.link.sent().front().tag.job : nullptr, service.queue.waiting()};
    any_waiting |= service.serving && !views_[i].waiting.empty();
  }
  *snapshot = {start_ns, views_, &latency_, margin_.share()};
  return any_waiting;
}

bool SchedulerLoop::AbandonHopeless(const Plan& plan, uint64_t start_ns, uint64_t now_ns) {
  bool any = false;
  for (const Assignment& assignment : plan.assignments) any |= Abandon(assignment.job, start_ns, now_ns);
  return any;
}

size_t SchedulerLoop::PlanRound(uint64_t now_ns) {
  const bool ahead = running_.number != 0;
  if (next_.number != 0 || (ahead && now_ns + lead_ns_ < running_.end_ns())) return 0;
  const uint64_t start_ns = ahead ? std::max(now_ns, running_.end_ns()) : now_ns + latency_.start_ns();
  Snapshot snapshot;
  Plan plan;
  do {
    if (!TakeSnapshot(start_ns, &snapshot)) return 0;
    plan = policy_->Next(snapshot);
  } while (AbandonHopeless(plan, start_ns, now_ns));
  if (plan.assignments.empty()) return 0;

  boost::container::static_vector<OperatorRange, kMaxWorkers> group;
  for (const Assignment& assignment : plan.assignments) {
    group.push_back({assignment.job->service, assignment.job->bucket, assignment.first, assignment.last});
  }
  Round round;
  round.number = ++rounds_;
  round.gate = std::max(1u, gate_.value() + 1);  // 0 means no gate
  round.margin = snapshot.margin;
  round.ahead = ahead;
  round.planned_ns = now_ns;
  round.start_cost_ns = ahead ? 0 : latency_.start_ns();
  round.predicted = latency_.Predict({group.data(), group.size()});
  for (const Assignment& assignment : plan.assignments) {
    if (Dispatch(assignment, round, now_ns)) ++round.pending;
  }
  round.ranges = round.pending;
  round.disturbed = round.pending < plan.assignments.size();
  next_ = round;
  if (!ahead) StartRound(clock_());  // planning is not part of the round
  return round.ranges;
}

size_t SchedulerLoop::PlanFree(uint64_t now_ns) {
  size_t dispatched = 0;
  for (;;) {
    Snapshot snapshot;
    if (!TakeSnapshot(now_ns, &snapshot)) return dispatched;
    const Plan plan = policy_->Next(snapshot);
    if (AbandonHopeless(plan, now_ns, now_ns)) continue;
    bool replan = false;
    for (const Assignment& assignment : plan.assignments) {
      Dispatch(assignment, {}, now_ns) ? ++dispatched : replan = true;
    }
    if (!replan) return dispatched;
  }
}

bool SchedulerLoop::Dispatch(const Assignment& assignment, const Round& round, uint64_t now_ns) {
  Job* job = assignment.job;
  Service& service = services_[job->service];
  Command command;
  command.kind = Command::kRun;
  command.flags = job->synthetic ? uint32_t{Command::kSynthetic} : 0u;
  command.job_id = job->id;
  command.bucket = job->bucket;
  command.first = assignment.first;
  command.last = assignment.last;
  command.gate = round.gate;
  command.block_offset = job->block_offset;
  command.block_bytes = job->block_bytes;
  command.sent_ns = now_ns;
  if (!service.link.Send(command, {job, round.number})) {
    Condemn(&service, "does not take commands: its ring is full or damaged");
    return false;
  }
  // A job that goes on later waits at the front; the part that was sent counts as done.
  const bool was_partial = job->next_operator > 0;
  job->next_operator = assignment.last;
  ++job->in_flight;
  if (assignment.last >= job->operators) {
    service.queue.Remove(job);
  } else if (!was_partial) {
    service.queue.Remove(job);
    service.queue.PushFront(job);
  }
  if (job->first_sent_ns == 0) job->first_sent_ns = now_ns;
  spdlog::debug("job {} of {}: bucket {}, operators [{}, {}), round {}", job->id, service.config->name, job->bucket,
                assignment.first, assignment.last, round.number);
  return true;
}

void SchedulerLoop::FinishWaiting(Job* job, StatusCode code, const std::string& message, uint64_t now_ns) {
  services_[job->service].queue.Remove(job);
  FinishJob(job, code, message, now_ns);
}

void SchedulerLoop::FinishJob(Job* job, StatusCode code, const std::string& message, uint64_t now_ns) {
  const OperatorRange whole{job->service, job->bucket, 0, job->operators};
  const uint64_t predicted_ns = latency_.PredictNs(whole);
  for (const uint32_t slot : job->queries) {
    protocol::Timing& timing = table_[slot].timing;
    const uint64_t left_queue_ns = job->first_sent_ns != 0 ? job->first_sent_ns : now_ns;
    timing.queued_us = (left_queue_ns - table_[slot].arrival_ns) / kNsPerUs;
    timing.executed_us = job->executed_ns / kNsPerUs;
    timing.rounds = job->rounds;
    timing.predicted_us = predicted_ns / kNsPerUs;
    FinishQuery(slot, code, message, now_ns);
  }
  free_jobs_.push_back(job);
}

void SchedulerLoop::FinishQuery(uint32_t slot, StatusCode code, const std::string& message, uint64_t now_ns) {
  Query& query = table_[slot];
  query.status = code;
  query.message = message;
  ServiceStats& stats = services_[query.service].block->stats;
  BumpOwned(stats.replies[static_cast<size_t>(code)]);
  if (code == StatusCode::kOk) {
    const uint64_t latency_ns = now_ns - query.arrival_ns;
    BumpOwned(stats.latency[LatencyBucketOf(latency_ns)]);
    if (now_ns > query.deadline_ns) BumpOwned(stats.violations);
  }
  trace_.Add({.kind = TraceEvent::kQuery,
              .status = code,
              .service = query.service,
              .id = query.id,
              .begin_ns = query.arrival_ns,
              .end_ns = now_ns,
              .deadline_ns = query.deadline_ns});
  spdlog::trace("query {} of {}: {}", query.id, services_[query.service].config->name, StatusCodeName(code));
  finished_.push_back(slot);
  in_flight_.fetch_sub(1, std::memory_order_release);
}

Job* SchedulerLoop::NewJob() {
  if (free_jobs_.empty()) {
    free_jobs_.push_back(&job_pool_.emplace_back());
  }
  Job* job = free_jobs_.back();
  free_jobs_.pop_back();
  *job = Job{};
  job->id = next_job_id_++;
  return job;
}

}  // namespace abacus
