#include "worker/serve/executor.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "base/clock.h"
#include "models/tensor_layout.h"

namespace abacus {
namespace {

bool IsCut(const BucketRanges& ranges, uint32_t op) {
  return std::binary_search(ranges.cuts.begin(), ranges.cuts.end(), op);
}

std::string RangeText(const Command& command) {
  return "job " + std::to_string(command.job_id) + ", bucket " + std::to_string(command.bucket) + ", operators [" +
         std::to_string(command.first) + ", " + std::to_string(command.last) + ")";
}

Status Bad(std::string what) { return {StatusCode::kInternal, std::move(what)}; }

}  // namespace

Executor::Executor(Region* region, WorkerId worker, const ModelSpec& spec, ModelRuntime* runtime)
    : slot_(region->worker(worker)),
      lane_(region->lane(LaneId(slot_.lane))),
      arena_(region->arena()),
      spec_(spec),
      may_share_batch_(MayShareBatch(spec)),
      may_be_split_(MayBeSplit(spec)),
      runtime_(runtime),
      command_bell_(&slot_.command_bell),
      controller_bell_(&region->header().controller_bell),
      gate_(&lane_.gate) {
  inputs_.resize(kMaxJobQueries * spec.inputs.size());
  outputs_.resize(kMaxJobQueries * spec.outputs.size());
  tensors_.reserve(kMaxJobQueries);
}

void Executor::PublishRanges(std::string_view digest) {
  // Whoever dies half-way leaves nothing to take over. The successor reads after our end, so only the order in which
  // the compiler has us write matters.
  StoreText(slot_.measured_digest, "");
  std::atomic_signal_fence(std::memory_order_seq_cst);
  for (uint32_t b = 0; b < spec_.bucket_count(); ++b) {
    const BucketRanges& ranges = runtime_->ranges(b);
    RangeTableEntry& entry = slot_.ranges[b];
    entry.operators = ranges.operators;
    entry.solo_ns = ranges.solo_ns;
    entry.cut_count = static_cast<uint32_t>(ranges.cuts.size());
    std::copy(ranges.cuts.begin(), ranges.cuts.end(), entry.cuts.begin());
  }
  StoreText(slot_.device_name, runtime_->device_name());
  StoreText(slot_.libraries, runtime_->libraries());
  StoreText(slot_.structure, runtime_->structure());
  std::atomic_signal_fence(std::memory_order_seq_cst);
  StoreText(slot_.measured_digest, digest);
}

Status Executor::HoldOnDevice() {
  ABACUS_RETURN_IF_ERROR(runtime_->UseGate(&lane_.gate));
  holds_on_device_ = true;
  return Status::Ok();
}

Status Executor::Validate(const Command& command) {
  if (command.kind != Command::kRun) return Bad("unknown command kind " + std::to_string(command.kind));
  if (command.bucket >= spec_.bucket_count()) return Bad("no such bucket");
  const BucketRanges& ranges = runtime_->ranges(command.bucket);
  if (command.first >= command.last || !IsCut(ranges, command.first) || !IsCut(ranges, command.last)) {
    return Bad("the range does not lie between cut points");
  }
  if (command.first != 0 && !progress_.Continues(command.job_id, command.bucket, command.first)) {
    return Bad("the range does not continue the job in progress");
  }
  ABACUS_RETURN_IF_ERROR(CopyQueries(command));
  return ValidateQueries(spec_.bucket(command.bucket));
}

Status Executor::CopyQueries(const Command& command) {
  query_count_ = command.query_count;
  if ((command.flags & Command::kSynthetic) != 0) {
    return query_count_ == 0 ? Status::Ok() : Bad("a synthetic job has no queries");
  }
  if (command.query_table >= kMaxSent) return Bad("no such table of queries");
  if (query_count_ == 0 || query_count_ > kMaxJobQueries) {
    return Bad("a job of " + std::to_string(query_count_) + " queries");
  }
  std::copy_n(slot_.queries[command.query_table].begin(), query_count_, queries_.begin());
  return Status::Ok();
}

Status Executor::ValidateQueries(const Bucket& bucket) const {
  if (query_count_ > 1 && !may_share_batch_) {
    return Bad("a job of " + std::to_string(query_count_) + " queries of a model whose batches cannot be shared");
  }
  int64_t rows_left = bucket.batch;
  for (size_t i = 0; i < query_count_; ++i) {
    const JobQuery& query = queries_[i];
    Status status;
    if (query.rows < 1 || query.rows > rows_left) {
      status = Bad(std::to_string(query.rows) + " rows, where the batch has room for " + std::to_string(rows_left));
    } else {
      status = ValidateQuery(query, bucket);
    }
    if (!status.ok()) return status.WithContext("query " + std::to_string(i));
    rows_left -= query.rows;
  }
  return Status::Ok();
}

Status Executor::ValidateQuery(const JobQuery& query, const Bucket& bucket) const {
  // A bound on the rows first: it keeps sizes in bytes from overflow.
  const auto most_rows = static_cast<uint64_t>(spec_.batch_sizes.back()) * kMaxQueryParts;
  if (query.query_rows > most_rows || query.rows > query.query_rows ||
      query.first_row > query.query_rows - query.rows) {
    return Bad(std::to_string(query.rows) + " rows from row " + std::to_string(query.first_row) + " on of " +
               std::to_string(query.query_rows) + ", of at most " + std::to_string(most_rows));
  }
  if (query.rows != query.query_rows && !may_be_split_) return Bad("a part of a query that cannot be split");
  if (!spec_.batchable && query.rows != bucket.batch) {
    return Bad(std::to_string(query.rows) + " rows, where padding to " + std::to_string(bucket.batch) +
               " would change the answers");
  }
  const bool exact = spec_.sequence_padding == SequencePadding::kExact;
  if (query.sequence > bucket.sequence || (query.sequence == 0) != (bucket.sequence == 0) ||
      (exact && query.sequence != bucket.sequence)) {
    return Bad("a length of " + std::to_string(query.sequence) + " where the bucket has " +
               std::to_string(bucket.sequence));
  }
  if (query.block_bytes > arena_.size() || query.block_offset > arena_.size() - query.block_bytes) {
    return Bad("its block does not lie inside the arena");
  }
  if (query.block_bytes < LayoutOf(spec_, query.query_rows, query.sequence).total_bytes) {
    return Bad("its block is smaller than its tensors");
  }
  return Status::Ok();
}

bool Executor::TakeCommand() {
  const size_t room = holds_on_device_ ? ModelRuntime::kMaxStarted : 1;
  Command command;
  if (stopped_ || !fatal_.ok() || pending_.size() >= room || !slot_.commands.TryPop(&command)) return false;
  if (command.kind == Command::kStop) {
    stopped_ = true;
  } else {
    Status status = Validate(command);
    if (!status.ok()) status = status.WithContext(RangeText(command));
    pending_.push_back({command, std::move(status)});
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
  if (command.first == 0) progress_.Begin(command.job_id, command.bucket);
  const uint32_t gate = holds_on_device_ ? command.gate : 0;
  const Status started = runtime_->Start({command.bucket, command.first, command.last, BindTensors(), gate});
  if (started.ok()) {
    progress_.Advance(command.last, runtime_->ranges(command.bucket).operators);
  } else {
    progress_.End();
  }
  return started;
}

JobTensors Executor::BindTensors() {
  tensors_.clear();
  const std::byte** inputs = inputs_.data();
  std::byte** outputs = outputs_.data();
  for (const JobQuery& query : std::span(queries_).first(query_count_)) {
    const TensorLayout layout = PartOf(spec_, query.query_rows, query.sequence, query.first_row, query.rows);
    std::byte* const base = arena_.data() + query.block_offset;
    tensors_.push_back({query.rows, query.sequence, {inputs, layout.inputs.size()}, {outputs, layout.outputs.size()}});
    for (const TensorExtent& extent : layout.inputs) *inputs++ = base + extent.offset_bytes;
    for (const TensorExtent& extent : layout.outputs) *outputs++ = base + extent.offset_bytes;
  }
  return tensors_;
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
  pending_.erase(pending_.begin());
  return true;
}

void Executor::EndJob(const Pending& failed) {
  const uint64_t job_id = failed.command.job_id;
  for (Pending& behind : pending_) {
    if (behind.command.job_id == job_id && behind.command.first != 0 && behind.status.ok()) {
      behind.status = failed.status;
    }
  }
  if (progress_.IsJob(job_id)) progress_.End();
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
  if (!ended.status.ok()) {
    StoreText(slot_.error, ended.status.message());
    if (runtime_->IsFatal()) {
      completion.fatal = 1;
      if (fatal_.ok()) fatal_ = ended.status;
    }
  }
  BumpOwned(slot_.ranges_run);
  BumpOwned(slot_.busy_ns, completion.ended_ns - completion.started_ns);
  // The controller keeps two commands outstanding at most, so there is room unless it broke its own rule.
  if (!slot_.completions.TryPush(completion)) {
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
    slot_.heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
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
