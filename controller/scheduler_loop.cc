#include "controller/scheduler_loop.h"

#include <algorithm>
#include <array>
#include <span>

#include "shm/clock.h"
#include "shm/log.h"

namespace abacus {
namespace {

constexpr uint64_t kOverdueCheckNs = kNsPerMs;  // how often waiting deadlines and running ranges are looked at
constexpr size_t kSubmitBatch = 64;             // new queries per iteration, so completions are never far away

std::string Ms(uint64_t ns) {
  const uint64_t hundredths = ns / (10 * kNsPerUs);
  const std::string fraction = std::to_string(hundredths % 100);
  return std::to_string(hundredths / 100) + (fraction.size() == 1 ? ".0" : ".") + fraction + " ms";
}

uint64_t RemainingNs(const Job& job, const LatencyModel& model) {
  const OperatorRange rest{job.service, job.bucket, job.next_operator, job.operators};
  return job.operators == 0 ? 0 : model.PredictNs({&rest, 1});
}

}  // namespace

SchedulerLoop::SchedulerLoop(const Config& config, Region* region, QueryTable* table, QueryChannel* channel,
                             std::unique_ptr<Policy> policy, WorkerControl* control,
                             std::function<void()> wake_front_end)
    : config_(config),
      region_(region),
      table_(*table),
      channel_(*channel),
      policy_(std::move(policy)),
      control_(control),
      wake_front_end_(std::move(wake_front_end)),
      bell_(&region->header().controller_bell),
      services_(config.services.size()),
      views_(config.services.size()) {
  for (size_t i = 0; i < services_.size(); ++i) {
    services_[i].config = &config.services[i];
    services_[i].block = &region->worker(i);
    services_[i].why_down = "its worker has not started yet";
  }
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
    if (DoWork(now_ns) == 0) bell_.Wait(ticket, InFlight() > 0 ? kOverdueCheckNs : kHeartbeatNs, spin_ns);
  }
}

size_t SchedulerLoop::DoWork(uint64_t now_ns) {
  size_t work = HandleEvents();
  work += HandleCompletions(now_ns);
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

size_t SchedulerLoop::HandleEvents() {
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
        WorkerDown(event.worker, event.message, MonotonicNs());
        break;
      case WorkerEvent::kGaveUp:
        RefuseWaiting(event.worker, StatusCode::kWorkerFailed, event.message, MonotonicNs());
        break;
      case WorkerEvent::kShutDown:
        RefuseWaiting(event.worker, StatusCode::kShuttingDown, event.message, MonotonicNs());
        break;
    }
  }
  return events.size();
}

void SchedulerLoop::WorkerUp(uint32_t index) {
  Service& service = services_[index];
  const WorkerBlock& block = *service.block;
  service.buckets.clear();
  for (uint32_t b = 0; b < service.config->spec.bucket_count(); ++b) {
    const RangeTableEntry entry = block.ranges[b];  // copy, then check: the worker wrote it
    if (entry.cut_count < 2 || entry.cut_count > entry.cuts.size() || entry.cuts[0] != 0 ||
        entry.cuts[entry.cut_count - 1] != entry.operators ||
        !std::is_sorted(entry.cuts.begin(), entry.cuts.begin() + entry.cut_count)) {
      Condemn(&service, "published an impossible range table for bucket " + std::to_string(b));
      return;
    }
    service.buckets.push_back({entry.operators, entry.solo_ns});
    additive_.SetBucket(index, b, {entry.cuts.data(), entry.cut_count}, entry.solo_ns);
  }
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
  service.why_down = why;
  if (service.running != nullptr) {
    Job* job = service.running;
    service.running = nullptr;
    FinishJob(job, StatusCode::kWorkerFailed, why, now_ns);
  }
  // A job that ran in part lost its state with the process.
  std::vector<Job*> partial;
  for (Job* job : service.queue.waiting()) {
    if (job->next_operator > 0) partial.push_back(job);
  }
  for (Job* job : partial) FinishWaiting(job, StatusCode::kWorkerFailed, why, now_ns);
  service.block->commands.Reset();
  service.block->completions.Reset();
  service.block->state.store(static_cast<uint32_t>(WorkerState::kExited), std::memory_order_release);
  control_->BlockReleased(index);
}

void SchedulerLoop::RefuseWaiting(uint32_t index, StatusCode code, const std::string& why, uint64_t now_ns) {
  Service& service = services_[index];
  service.refusing = true;
  service.refusal = code;
  service.why_down = why;
  while (service.queue.size() > 0) FinishWaiting(service.queue.waiting().front(), code, why, now_ns);
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
    if (service.running != nullptr && PopCompletion(&service, now_ns)) ++handled;
  }
  return handled;
}

bool SchedulerLoop::PopCompletion(Service* service, uint64_t now_ns) {
  Completion completion;
  if (!service->block->completions.TryPop(&completion)) return false;
  Job* job = service->running;
  if (job == nullptr || completion.job_id != job->id || completion.first != service->running_first ||
      completion.last != service->running_last || completion.status >= kStatusCodeNames.size()) {
    Condemn(service, "answered a command that was not given");
    return true;
  }
  service->running = nullptr;
  job->executed_ns += now_ns - service->sent_ns;
  ++job->rounds;
  BumpOwned(service->block->stats.rounds);
  if (completion.status != 0) {
    FinishJob(job, StatusCode::kWorkerFailed, LoadText(service->block->error), now_ns);
    if (completion.fatal != 0) service->serving = false;  // it exits by itself; kDown follows
    return true;
  }
  job->next_operator = completion.last;
  if (job->next_operator >= job->operators) {
    FinishJob(job, StatusCode::kOk, {}, now_ns);
  } else {
    service->queue.PushFront(job);
  }
  return true;
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
  const BucketTimes& times = services_[job->service].buckets[job->bucket];
  job->operators = times.operators;
  job->solo_ns = times.solo_ns;
}

bool SchedulerLoop::Abandon(Job* job, uint64_t now_ns) {
  if (!config_.scheduler.abandon) return false;
  if (job->deadline_ns < now_ns) {
    FinishWaiting(
        job, StatusCode::kDeadlineExceeded,
        "waited " + Ms(now_ns - job->arrival_ns) + ", its target was " + Ms(job->deadline_ns - job->arrival_ns),
        now_ns);
    return true;
  }
  const uint64_t remaining_ns = RemainingNs(*job, additive_);
  if (now_ns + remaining_ns > job->deadline_ns) {
    const uint64_t predicted_ns = now_ns - job->arrival_ns + remaining_ns;
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
  for (Service& service : services_) {
    for (size_t i = 0; i < service.queue.size();) {
      if (Abandon(service.queue.waiting()[i], now_ns)) {
        ++handled;
      } else {
        ++i;
      }
    }
    if (service.running != nullptr && now_ns > service.sent_ns + config_.worker.round_timeout_ns) {
      Condemn(&service,
              "has not finished a range within round_timeout_ms (" + Ms(config_.worker.round_timeout_ns) + ")");
    }
    service.block->stats.queued.store(service.queue.size(), std::memory_order_relaxed);
    service.block->stats.in_flight.store(service.running != nullptr ? service.running->queries.size() : 0,
                                         std::memory_order_relaxed);
  }
  return handled;
}

size_t SchedulerLoop::PlanAndDispatch(uint64_t now_ns) {
  size_t dispatched = 0;
  for (;;) {
    bool any_waiting = false;
    for (size_t i = 0; i < services_.size(); ++i) {
      const Service& service = services_[i];
      views_[i] = {service.serving, service.running, service.queue.waiting()};
      any_waiting |= service.serving && !views_[i].waiting.empty();
    }
    if (!any_waiting) return dispatched;
    const Plan plan = policy_->Next({now_ns, views_, &additive_});
    bool replan = false;
    for (const Assignment& assignment : plan.assignments) {
      if (Abandon(assignment.job, now_ns) || !Dispatch(assignment, now_ns)) {
        replan = true;
      } else {
        ++dispatched;
      }
    }
    if (!replan) return dispatched;
  }
}

bool SchedulerLoop::Dispatch(const Assignment& assignment, uint64_t now_ns) {
  Job* job = assignment.job;
  Service& service = services_[job->service];
  Command command;
  command.kind = Command::kRun;
  command.flags = job->synthetic ? uint32_t{Command::kSynthetic} : 0u;
  command.job_id = job->id;
  command.bucket = job->bucket;
  command.first = assignment.first;
  command.last = assignment.last;
  command.block_offset = job->block_offset;
  command.block_bytes = job->block_bytes;
  command.sent_ns = now_ns;
  if (!service.block->commands.TryPush(command)) {
    Condemn(&service, "does not take commands: its ring is full or damaged");
    return false;
  }
  Doorbell(&service.block->command_bell).Ring();
  service.queue.Remove(job);
  service.running = job;
  service.running_first = assignment.first;
  service.running_last = assignment.last;
  service.sent_ns = now_ns;
  if (job->first_sent_ns == 0) job->first_sent_ns = now_ns;
  spdlog::debug("job {} of {}: bucket {}, operators [{}, {})", job->id, service.config->name, job->bucket,
                assignment.first, assignment.last);
  return true;
}

void SchedulerLoop::FinishWaiting(Job* job, StatusCode code, const std::string& message, uint64_t now_ns) {
  services_[job->service].queue.Remove(job);
  FinishJob(job, code, message, now_ns);
}

void SchedulerLoop::FinishJob(Job* job, StatusCode code, const std::string& message, uint64_t now_ns) {
  const OperatorRange whole{job->service, job->bucket, 0, job->operators};
  const uint64_t predicted_ns = additive_.PredictNs({&whole, 1});
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
