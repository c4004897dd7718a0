#include "worker/cuda/synthetic_job.h"

#include <ATen/ops/empty.h>

#include "models/tensor_layout.h"
#include "worker/torch/job_rows.h"

namespace abacus {

SyntheticJob SyntheticJob::OfManyQueries(const ModelSpec& spec, const BucketPlan& plan) {
  return {spec, plan, SmallestQueries(spec, plan.bucket.batch)};
}

SyntheticJob::SyntheticJob(const ModelSpec& spec, const BucketPlan& plan, const std::vector<int64_t>& query_rows) {
  const Bucket& bucket = plan.bucket;
  uint64_t bytes = 0;
  for (const int64_t rows : query_rows) bytes += LayoutOf(spec, rows, bucket.sequence).total_bytes;
  memory_ = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions(at::kByte).pinned_memory(true));
  inputs_.reserve(query_rows.size() * spec.inputs.size());  // so that nothing moves
  outputs_.reserve(query_rows.size() * spec.outputs.size());

  auto* block = static_cast<std::byte*>(memory_.data_ptr());
  int64_t first_row = 0;
  for (const int64_t rows : query_rows) {
    const TensorLayout layout = LayoutOf(spec, rows, bucket.sequence);
    queries_.push_back({static_cast<uint32_t>(rows),
                        static_cast<uint32_t>(bucket.sequence),
                        {inputs_.data() + inputs_.size(), spec.inputs.size()},
                        {outputs_.data() + outputs_.size(), spec.outputs.size()}});
    for (size_t i = 0; i < spec.inputs.size(); ++i) {
      std::byte* const input = block + layout.inputs[i].offset_bytes;
      ScatterRows(input, static_cast<const std::byte*>(plan.sample[i].const_data_ptr()),
                  SlabOf(spec.inputs[i], bucket, first_row, rows, bucket.sequence));
      inputs_.push_back(input);
    }
    for (const TensorExtent& extent : layout.outputs) outputs_.push_back(block + extent.offset_bytes);
    block += layout.total_bytes;
    first_row += rows;
  }
}

}  // namespace abacus
