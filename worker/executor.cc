#include "worker/executor.h"

#include <algorithm>

#include "shm/clock.h"

namespace abacus {
namespace {

bool IsCut(const BucketRanges& ranges, uint32_t op) {
  return std::binary_search(ranges.cuts.begin(), ranges.cuts.end(), op);
}

std::string RangeText(const Command& command) {
  return "job " + std::to_string(command.job_id) + ", bucket " + std::to_string(command.bucket) + ", operators [" +
         std::to_string(command.first) + ", " + std::to_string(command.last) + ")";
}

}  // namespace

Executor::Executor(Region* region, size_t worker_index, const ModelSpec& spec, ModelRuntime* runtime)
    : block_(region->worker(worker_index)),
      header_(region->header()),
      arena_(region->arena()),
      runtime_(runtime),
      command_bell_(&block_.command_bell),
      controller_bell_(&header_.controller_bell),
      gate_(&header_.gate) {
  for (size_t b = 0; b < spec.bucket_count(); ++b) layouts_.push_back(LayoutOf(spec, b));
}

void Executor::PublishRanges() {
  for (uint32_t b = 0; b < layouts_.size(); ++b) {
    const BucketRanges& ranges = runtime_->ranges(b);
    RangeTableEntry& entry = block_.ranges[b];
    entry.operators = ranges.operators;
    entry.solo_ns = ranges.solo_ns;
    entry.cut_count = static_cast<uint32_t>(ranges.cuts.size());
    std::copy(ranges.cuts.begin(), ranges.cuts.end(), entry.cuts.begin());
  }
  StoreText(block_.device_name, runtime_->device_name());
  StoreText(block_.libraries, runtime_->libraries());
}

Status Executor::HoldOnDevice() {
  ABACUS_RETURN_IF_ERROR(runtime_->UseGate(&header_.gate));
  holds_on_device_ = true;
  return Status::Ok();
}

Status Executor::Validate(const Command& command) const {
  const auto bad = [&](const std::string& what) {
    return Status(StatusCode::kInternal, what + " (" + RangeText(command) + ")");
  };
  if (command.kind != Command::kRun) return bad("unknown command kind " + std::to_string(command.kind));
  if (command.bucket >= layouts_.size()) return bad("no such bucket");
  const BucketRanges& ranges = runtime_->ranges(command.bucket);
  if (command.first >= command.last || !IsCut(ranges, command.first) || !IsCut(ranges, command.last)) {
    return bad("the range does not lie between cut points");
  }
  const bool continues = command.job_id == job_id_ && command.bucket == job_bucket_ && command.first == next_operator_;
  if (command.first != 0 && !continues) return bad("the range does not continue the job in progress");
  if ((command.flags & Command::kSynthetic) == 0) {
    const uint64_t need = layouts_[command.bucket].total_bytes;
    if (command.block_bytes < need || command.block_bytes > arena_.size() ||
        command.block_offset > arena_.size() - command.block_bytes) {
      return bad("the tensor block does not lie inside the arena");
    }
  }
  return Status::Ok();
}

bool Executor::TakeCommand() {
  const size_t room = holds_on_device_ ? ModelRuntime::kMaxStarted : 1;
  Command command;
  if (stopped_ || !fatal_.ok() || pending_.size() >= room || !block_.commands.TryPop(&command)) return false;
  if (command.kind == Command::kStop) {
    stopped_ = true;
  } else {
    pending_.push_back({command, Validate(command)});
  }
  return true;
}

void Executor::StartNewest() {
  Pending& newest = pending_.back();
  if (newest.started || !newest.status.ok()) return;
  if (!holds_on_device_) {
    if (!IsOpen(newest.command)) {
      if (stopped_) newest.status = Status(StatusCode::kShuttingDown, "stopped before the range's gate was open");
      return;
    }
    newest.started_ns = MonotonicNs();
  }
  newest.status = Start(newest.command);
  newest.started = newest.status.ok();
}

Status Executor::Start(const Command& command) {
  inputs_.clear();
  outputs_.clear();
  if ((command.flags & Command::kSynthetic) == 0) {
    const BlockLayout& layout = layouts_[command.bucket];
    std::byte* const base = arena_.data() + command.block_offset;
    for (const TensorSlot& slot : layout.inputs) inputs_.push_back(base + slot.offset_bytes);
    for (const TensorSlot& slot : layout.outputs) outputs_.push_back(base + slot.offset_bytes);
  }
  next_operator_ = 0;  // until the range has started, no job can be continued
  const uint32_t gate = holds_on_device_ ? command.gate : 0;
  ABACUS_RETURN_IF_ERROR(runtime_->Start({command.bucket, command.first, command.last, {inputs_, outputs_}, gate}));
  job_id_ = command.job_id;
  job_bucket_ = command.bucket;
  next_operator_ = command.last == runtime_->ranges(command.bucket).operators ? 0 : command.last;
  return Status::Ok();
}

bool Executor::AnswerOldest() {
  Pending& oldest = pending_.front();
  if (oldest.started_ns == 0 && IsOpen(oldest.command)) oldest.started_ns = MonotonicNs();
  DeviceTimes times;
  if (oldest.started) {
    const Result<std::optional<DeviceTimes>> ended = runtime_->Poll();
    if (ended && !*ended) return false;
    if (ended) {
      times = **ended;
    } else {
      if (oldest.status.ok()) oldest.status = ended.error();
      EndJob(oldest);
    }
  } else if (oldest.status.ok()) {
    return false;  // waits for its gate
  }
  Answer(oldest, times);
  pending_.pop_front();
  return true;
}

void Executor::EndJob(const Pending& failed) {
  const uint64_t job_id = failed.command.job_id;
  for (Pending& behind : pending_) {
    if (behind.command.job_id == job_id && behind.command.first != 0 && behind.status.ok()) {
      behind.status = failed.status;
    }
  }
  if (job_id_ == job_id) next_operator_ = 0;
}

void Executor::Answer(const Pending& ended, const DeviceTimes& times) {
  const Command& command = ended.command;
  Completion completion;
  completion.job_id = command.job_id;
  completion.first = command.first;
  completion.last = command.last;
  completion.status = static_cast<uint32_t>(ended.status.code());
  completion.ended_ns = MonotonicNs();
  completion.started_ns = ended.started_ns != 0 ? ended.started_ns : completion.ended_ns;
  completion.gpu_started_ns = times.started_ns;
  completion.gpu_ended_ns = times.ended_ns;
  if (!ended.status.ok()) StoreText(block_.error, ended.status.message());
  if (runtime_->IsFatal()) {
    completion.fatal = 1;
    if (fatal_.ok()) fatal_ = ended.status;
  }
  BumpOwned(block_.ranges_run);
  BumpOwned(block_.busy_ns, completion.ended_ns - completion.started_ns);
  // The controller keeps two commands outstanding at most, so there is room unless it broke its own rule.
  if (!block_.completions.TryPush(completion)) {
    fatal_ = Status(StatusCode::kInternal, "the completion ring is full: the controller does not follow the protocol");
  }
  controller_bell_.Ring();
}

bool Executor::DoWork() {
  const bool took = TakeCommand();
  if (pending_.empty()) return took;
  StartNewest();
  return AnswerOldest() || took;
}

Status Executor::Serve(const std::atomic<bool>& stop, uint64_t spin_ns) {
  for (;;) {
    const uint32_t ticket = command_bell_.Ticket();
    block_.heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
    if (stop.load(std::memory_order_relaxed)) stopped_ = true;
    if (pending_.empty() && (stopped_ || !fatal_.ok())) return fatal_;
    if (DoWork()) continue;
    if (pending_.empty()) {
      command_bell_.Wait(ticket, kHeartbeatNs, spin_ns);
    } else if (pending_.front().started) {
      CpuRelax();
    } else {
      gate_.Wait(pending_.front().command.gate, kHeartbeatNs, spin_ns);
    }
  }
}

}  // namespace abacus
