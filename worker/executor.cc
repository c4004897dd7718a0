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
      controller_bell_(&header_.controller_bell) {
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

Status Executor::Run(const Command& command) {
  inputs_.clear();
  outputs_.clear();
  if ((command.flags & Command::kSynthetic) == 0) {
    const BlockLayout& layout = layouts_[command.bucket];
    std::byte* const base = arena_.data() + command.block_offset;
    for (const TensorSlot& slot : layout.inputs) inputs_.push_back(base + slot.offset_bytes);
    for (const TensorSlot& slot : layout.outputs) outputs_.push_back(base + slot.offset_bytes);
  }
  next_operator_ = 0;  // until the range has run, no job can be continued
  ABACUS_RETURN_IF_ERROR(runtime_->Run(command.bucket, command.first, command.last, {inputs_, outputs_}));
  job_id_ = command.job_id;
  job_bucket_ = command.bucket;
  next_operator_ = command.last == runtime_->ranges(command.bucket).operators ? 0 : command.last;
  return Status::Ok();
}

void Executor::Answer(const Command& command, const Status& status, uint64_t started_ns) {
  Completion completion;
  completion.job_id = command.job_id;
  completion.first = command.first;
  completion.last = command.last;
  completion.status = static_cast<uint32_t>(status.code());
  completion.started_ns = started_ns;
  completion.ended_ns = MonotonicNs();
  if (!status.ok()) StoreText(block_.error, status.message());
  if (runtime_->IsFatal()) {
    completion.fatal = 1;
    fatal_ = status;
  }
  BumpOwned(block_.ranges_run);
  BumpOwned(block_.busy_ns, completion.ended_ns - started_ns);
  // The controller keeps at most kRingCapacity commands outstanding, so there is room unless it broke its own rule.
  if (!block_.completions.TryPush(completion)) {
    fatal_ = Status(StatusCode::kInternal, "the completion ring is full: the controller does not follow the protocol");
  }
  controller_bell_.Ring();
}

bool Executor::DoWork() {
  Command command;
  if (!block_.commands.TryPop(&command)) return false;
  if (command.kind == Command::kStop) {
    stopped_ = true;
    return true;
  }
  const uint64_t started_ns = MonotonicNs();
  Status status = Validate(command);
  if (status.ok()) status = Run(command);
  Answer(command, status, started_ns);
  return true;
}

Status Executor::Serve(const std::atomic<bool>& stop, uint64_t spin_ns) {
  while (!stopped_ && fatal_.ok() && !stop.load(std::memory_order_relaxed)) {
    const uint32_t ticket = command_bell_.Ticket();
    block_.heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
    if (!DoWork()) command_bell_.Wait(ticket, kHeartbeatNs, spin_ns);
  }
  return fatal_;
}

}  // namespace abacus
