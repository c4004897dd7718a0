#include "worker/torch/job_rows.h"

#include <algorithm>
#include <string>

#include "shm/layout.h"

namespace abacus {
namespace {

Status Misfit(const std::string& what) { return {StatusCode::kInternal, "the job " + what}; }

}  // namespace

int64_t RowsOf(JobTensors job) {
  int64_t rows = 0;
  for (const QueryTensors& query : job) rows += query.rows;
  return rows;
}

std::vector<int64_t> SmallestQueries(const ModelSpec& spec, int64_t batch) {
  const int64_t count = MayShareBatch(spec) ? std::min<int64_t>(batch, kMaxJobQueries) : 1;
  std::vector<int64_t> rows(static_cast<size_t>(count), 1);
  rows.back() = batch - count + 1;
  return rows;
}

Status CheckJob(const ModelSpec& spec, const Bucket& bucket, JobTensors job) {
  if (job.empty()) return Status::Ok();
  for (const QueryTensors& query : job) {
    if (query.inputs.size() != spec.inputs.size() || query.outputs.size() != spec.outputs.size()) {
      return Misfit("has " + std::to_string(query.inputs.size()) + " inputs and " +
                    std::to_string(query.outputs.size()) + " outputs, the model " + std::to_string(spec.inputs.size()) +
                    " and " + std::to_string(spec.outputs.size()));
    }
    const bool fits =
        spec.has_sequence() ? query.sequence >= 1 && query.sequence <= bucket.sequence : query.sequence == 0;
    if (query.rows == 0 || !fits) {
      return Misfit("has a query of " + std::to_string(query.rows) + " rows of length " +
                    std::to_string(query.sequence));
    }
  }
  if (const int64_t rows = RowsOf(job); rows > bucket.batch) return Misfit("has " + std::to_string(rows) + " rows");
  if (job.size() > 1 && !MayShareBatch(spec)) {
    return Misfit(
        "has several queries, the model rows that depend on each other or a tensor without a batch dimension");
  }
  return Status::Ok();
}

bool Fills(const TensorSpec& tensor, const Bucket& bucket, JobTensors job) {
  if (HasDim(tensor, kBatchDim) && RowsOf(job) != bucket.batch) return false;
  return !HasDim(tensor, kSequenceDim) ||
         std::ranges::all_of(job, [&](const QueryTensors& query) { return query.sequence == bucket.sequence; });
}

uint64_t FilledBytes(const TensorSpec& tensor, const Bucket& bucket, JobTensors job) {
  SlabCursor slabs(tensor, bucket);
  uint64_t filled_bytes = 0;
  for (const QueryTensors& query : job) {
    const RowSlab slab = slabs.Next(query);
    if (slab.piece_bytes != slab.batch_pitch_bytes) return slab.batch_offset_bytes + slab.piece_bytes;
    filled_bytes = slab.batch_offset_bytes + slab.count * slab.piece_bytes;
  }
  return filled_bytes;
}

bool CanBePadded(const TensorSpec& tensor, const Bucket& bucket) {
  return (HasDim(tensor, kBatchDim) && bucket.batch > 1) || (HasDim(tensor, kSequenceDim) && bucket.sequence > 1);
}

void GatherInput(std::span<std::byte> batch, const ModelSpec& spec, const Bucket& bucket, size_t index,
                 JobTensors job) {
  const TensorSpec& input = spec.inputs[index];
  SlabCursor slabs(input, bucket);
  uint64_t end_bytes = 0;  // of the rows so far
  for (const QueryTensors& query : job) {
    const RowSlab slab = slabs.Next(query);
    GatherRows(batch.data(), query.inputs[index], slab);
    end_bytes = slab.batch_offset_bytes + slab.count * slab.batch_pitch_bytes;
    const uint64_t tail_bytes = slab.batch_pitch_bytes - slab.piece_bytes;  // behind each piece
    if (tail_bytes == 0) continue;
    for (uint64_t at = slab.batch_offset_bytes + slab.piece_bytes; at < end_bytes; at += slab.batch_pitch_bytes) {
      FillPadding(batch.subspan(at, tail_bytes), input);
    }
  }
  FillPadding(batch.subspan(end_bytes), input);
}

void ScatterOutput(const std::byte* batch, const ModelSpec& spec, const Bucket& bucket, size_t index, JobTensors job) {
  SlabCursor slabs(spec.outputs[index], bucket);
  for (const QueryTensors& query : job) ScatterRows(query.outputs[index], batch, slabs.Next(query));
}

}  // namespace abacus
