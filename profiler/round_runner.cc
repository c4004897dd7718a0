#include "profiler/round_runner.h"

#include <poll.h>

#include <algorithm>

#include "base/clock.h"

namespace abacus {
namespace {

// Time for the workers to take and enqueue what was sent ahead, as the scheduler's lead_us gives them.
constexpr uint64_t kSettleNs = 100 * kNsPerUs;
constexpr uint64_t kWaitNs = kNsPerMs;
constexpr int kPollMs = 100;
constexpr uint64_t kLookNs = 50 * kNsPerMs;  // how often a round is looked after; looking disturbs it

}  // namespace

RoundRunner::RoundRunner(const ServiceSetPtr& services, uint64_t round_timeout_ns, bool spin, Region* region,
                         WorkerSupervisor* supervisor, int interrupt_fd)
    : round_timeout_ns_(round_timeout_ns),
      spin_(spin),
      region_(region),
      supervisor_(supervisor),
      interrupt_fd_(interrupt_fd),
      gate_(&region->lane(LaneId()).gate),
      bell_(&region->header().controller_bell) {
  for (const ServicePtr& service : services->services()) {
    Worker& worker = workers_.emplace_back();
    worker.ref.id = service->worker;
    worker.name = service->config.name;
    worker.link.Attach(&region->worker(service->worker));
  }
}

void RoundRunner::Post(WorkerEvent event) { events_.Post(std::move(event)); }

Status RoundRunner::HandleEvents() {
  Status status;
  for (const WorkerEvent& event : events_.Take()) {
    const auto worker =
        std::ranges::find_if(workers_, [&](const Worker& candidate) { return candidate.ref.id == event.worker.id; });
    if (worker == workers_.end()) continue;
    if (event.kind == WorkerEvent::kUp) {
      worker->ref = event.worker;
      worker->serving = true;
      worker->link.Up();
    } else if (event.kind == WorkerEvent::kDown) {
      if (event.worker.generation < worker->ref.generation) continue;  // it has a successor already
      worker->serving = false;
      worker->link.Down();
      supervisor_->SlotReleased(event.worker);
      if (status.ok()) status = {StatusCode::kWorkerFailed, event.message};
    } else {
      status = {StatusCode::kUnavailable, event.message};
    }
  }
  return status;
}

bool RoundRunner::interrupted() {
  pollfd fd{interrupt_fd_, POLLIN, 0};
  return poll(&fd, 1, 0) > 0;
}

Status RoundRunner::AwaitWorkers(const std::function<void()>& progress) {
  const auto serving = [](const Worker& worker) { return worker.serving; };
  while (!std::all_of(workers_.begin(), workers_.end(), serving)) {
    if (supervisor_->Poll(kPollMs, interrupt_fd_)) return {StatusCode::kShuttingDown, "interrupted"};
    // A worker that dies while it loads is started again; one that keeps dying is given up.
    if (Status status = HandleEvents(); status.code() == StatusCode::kUnavailable) return status;
    progress();
  }
  return Status::Ok();
}

Status RoundRunner::Send(const Range& range, uint64_t job, uint32_t gate) {
  Command command;
  command.kind = Command::kRun;
  command.flags = Command::kSynthetic;
  command.job_id = job;
  command.bucket = range.bucket;
  command.first = range.first;
  command.last = range.last;
  command.gate = gate;
  command.sent_ns = MonotonicNs();
  Worker& worker = workers_[range.service.value()];
  if (worker.link.Send(command, {}, 0)) return Status::Ok();
  Condemn(&worker, "does not take commands: its ring is full or damaged");
  return {StatusCode::kWorkerFailed, worker.name + " does not take commands"};
}

void RoundRunner::Condemn(Worker* worker, const std::string& why) {
  worker->serving = false;
  supervisor_->Condemn(worker->ref, why);
}

Status RoundRunner::Await(size_t count) {
  const uint64_t deadline_ns = MonotonicNs() + round_timeout_ns_;
  const uint64_t spin_ns = spin_ ? kWaitNs : 0;
  uint64_t next_look_ns = MonotonicNs() + kLookNs;
  Status status;
  while (count > 0) {
    const uint32_t ticket = bell_.Ticket();
    bool any = false;
    for (Worker& worker : workers_) {
      Completion completion;
      WorkerLink<int>::Sent sent;
      if (worker.link.idle()) continue;
      const auto answer = worker.link.Take(&completion, &sent);
      if (answer == WorkerLink<int>::Answer::kNone) continue;
      any = true;
      --count;
      if (answer == WorkerLink<int>::Answer::kNonsense) {
        Condemn(&worker, "answered a command that was not given");
        return {StatusCode::kWorkerFailed, worker.name + " answered a command that was not given"};
      }
      if (completion.status != 0 && status.ok()) {
        status = {StatusCode::kWorkerFailed, worker.name + ": " + LoadText(region_->worker(worker.ref.id).error)};
      }
    }
    if (any) continue;
    const uint64_t now_ns = MonotonicNs();
    if (now_ns > next_look_ns) {
      next_look_ns = now_ns + kLookNs;
      supervisor_->Poll(0, -1);
      ABACUS_RETURN_IF_ERROR(HandleEvents());
    }
    if (now_ns > deadline_ns) {
      for (Worker& worker : workers_) {
        const auto& sent = worker.link.sent();
        if (sent.empty() || !gate_.Reached(sent.front().gate)) continue;  // those that wait for the gate are innocent
        Condemn(&worker, "has not finished a range within round_timeout_ms");
      }
      return {StatusCode::kWorkerFailed, "a worker has not finished a range within round_timeout_ms"};
    }
    bell_.Wait(ticket, kWaitNs, spin_ns);
  }
  return status;
}

Result<uint64_t> RoundRunner::Measure(std::span<const Range> ranges) {
  // What an aborted round left behind: let it run out.
  size_t left = 0;
  for (const Worker& worker : workers_) left += worker.link.sent().size();
  if (left > 0) {
    gate_.Open(gate_.value() + 2);
    const Status status = Await(left);
    const auto ready = [](const Worker& worker) { return worker.link.idle() && worker.serving; };
    if (!status.ok() && !std::all_of(workers_.begin(), workers_.end(), ready)) return Error(status);
  }
  supervisor_->Poll(0, -1);
  ABACUS_RETURN_IF_ERROR(HandleEvents());

  const uint32_t prepare_gate = gate_.value() + 1, gate = gate_.value() + 2;
  const uint64_t first_job = next_job_;
  next_job_ += ranges.size();
  size_t prepared = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].first == 0) continue;
    const Range prefix = {ranges[i].service, ranges[i].bucket, 0, ranges[i].first};
    ABACUS_RETURN_IF_ERROR(Send(prefix, first_job + i, prepare_gate));
    ++prepared;
  }
  gate_.Open(prepare_gate);
  for (size_t i = 0; i < ranges.size(); ++i) ABACUS_RETURN_IF_ERROR(Send(ranges[i], first_job + i, gate));
  // In order: a worker's first completion is its prefix's.
  if (prepared > 0) ABACUS_RETURN_IF_ERROR(Await(prepared));
  const uint64_t settled_ns = MonotonicNs() + kSettleNs;
  while (MonotonicNs() < settled_ns) CpuRelax();
  const uint64_t start_ns = MonotonicNs();
  gate_.Open(gate);
  ABACUS_RETURN_IF_ERROR(Await(ranges.size()));
  return MonotonicNs() - start_ns;
}

}  // namespace abacus
