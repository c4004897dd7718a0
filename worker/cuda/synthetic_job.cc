#include "worker/cuda/synthetic_job.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "models/tensor_layout.h"
#include "shm/layout.h"

namespace abacus {

SyntheticJob SyntheticJob::OfManyQueries(const ModelSpec& spec, const BucketPlan& plan) {
  const size_t most = MayShareBatch(spec) ? kMaxJobQueries : 1;
  return {spec, plan, std::min(most, static_cast<size_t>(plan.bucket.batch))};
}

SyntheticJob::SyntheticJob(const ModelSpec& spec, const BucketPlan& plan, size_t count) {
  const Bucket& bucket = plan.bucket;
  const auto queries = static_cast<int64_t>(count);
  const auto rows_of = [&](int64_t query) { return query + 1 < queries ? 1 : bucket.batch - queries + 1; };
  uint64_t bytes = 0;
  for (int64_t q = 0; q < queries; ++q) bytes += LayoutOf(spec, rows_of(q), bucket.sequence).total_bytes;
  memory_ = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions(at::kByte).pinned_memory(true));
  inputs_.reserve(count * spec.inputs.size());  // so that nothing moves
  outputs_.reserve(count * spec.outputs.size());

  auto* block = static_cast<std::byte*>(memory_.data_ptr());
  for (int64_t q = 0; q < queries; ++q) {
    const int64_t rows = rows_of(q);
    const TensorLayout layout = LayoutOf(spec, rows, bucket.sequence);
    queries_.push_back({static_cast<uint32_t>(rows),
                        static_cast<uint32_t>(bucket.sequence),
                        {inputs_.data() + inputs_.size(), spec.inputs.size()},
                        {outputs_.data() + outputs_.size(), spec.outputs.size()}});
    for (size_t i = 0; i < spec.inputs.size(); ++i) {
      std::byte* const input = block + layout.inputs[i].offset_bytes;
      ScatterRows(input, static_cast<const std::byte*>(plan.sample[i].const_data_ptr()),
                  SlabOf(spec.inputs[i], bucket, q, rows, bucket.sequence));
      inputs_.push_back(input);
    }
    for (const TensorExtent& extent : layout.outputs) outputs_.push_back(block + extent.offset_bytes);
    block += layout.total_bytes;
  }
}

}  // namespace abacus
