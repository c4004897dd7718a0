// How the queries of a job lie in the tensors of its bucket: one after another along the batch, and padding in what
// none of them fills.
//
// Thread rule: pure functions on the caller's memory. Errors: INTERNAL, for jobs that do not fit the model or bucket.
#ifndef ABACUS_WORKER_TORCH_JOB_ROWS_H_
#define ABACUS_WORKER_TORCH_JOB_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "models/tensor_layout.h"
#include "worker/runtime/model_runtime.h"

namespace abacus {

// Of the batch, without padding.
int64_t RowsOf(JobTensors job);

// Rows of the queries, as many as a job may have, that fill a batch of this size: 1, and the rest for the last.
std::vector<int64_t> SmallestQueries(const ModelSpec& spec, int64_t batch);

// Error unless the job is synthetic, or its queries have the model's number of tensors and together fit the bucket.
// Several queries need a model whose batches may be shared.
Status CheckJob(const ModelSpec& spec, const Bucket& bucket, JobTensors job);

// Whether the queries leave nothing of this input or output of the bucket unfilled.
bool Fills(const TensorSpec& tensor, const Bucket& bucket, JobTensors job);
// How much of it, from its start, they fill without a gap: all of it where they fill it.
uint64_t FilledBytes(const TensorSpec& tensor, const Bucket& bucket, JobTensors job);
// Whether a job can leave something of it unfilled.
bool CanBePadded(const TensorSpec& tensor, const Bucket& bucket);

// The slabs of one tensor for the queries of a job, in order.
class SlabCursor {
 public:
  SlabCursor(const TensorSpec& tensor, const Bucket& bucket) : tensor_(tensor), bucket_(bucket) {}
  RowSlab Next(const QueryTensors& query) {
    const RowSlab slab = SlabOf(tensor_, bucket_, first_row_, query.rows, query.sequence);
    first_row_ += query.rows;
    return slab;
  }

 private:
  const TensorSpec& tensor_;
  const Bucket& bucket_;
  int64_t first_row_ = 0;
};

// Writes all of input `index` of the bucket: the rows of the queries, and padding.
void GatherInput(std::span<std::byte> batch, const ModelSpec& spec, const Bucket& bucket, size_t index, JobTensors job);
// Writes output `index` of every query.
void ScatterOutput(const std::byte* batch, const ModelSpec& spec, const Bucket& bucket, size_t index, JobTensors job);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_JOB_ROWS_H_
