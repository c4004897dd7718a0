#include "worker/cuda/bucket_memory.h"

#include <ATen/ops/empty.h>

#include <span>

#include "models/tensor_layout.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

at::Tensor PaddingOf(const TensorSpec& input, const TensorPlan& plan, at::Device device) {
  const at::Tensor host = at::empty(plan.sizes, at::TensorOptions(plan.dtype));
  FillPadding({static_cast<std::byte*>(host.data_ptr()), host.nbytes()}, input);
  return host.to(device);
}

at::Tensor ViewOf(const at::Tensor& block, const TensorExtent& place, const TensorPlan& plan) {
  return block.narrow(0, static_cast<int64_t>(place.offset_bytes), static_cast<int64_t>(place.bytes))
      .view(plan.dtype)
      .view(plan.sizes);
}

Status CopySlab(std::byte* batch, const std::byte* query, const RowSlab& slab, cudaStream_t stream) {
  std::byte* const target = batch + slab.batch_offset_bytes;
  if (slab.count == 1) {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(target, query, slab.piece_bytes, cudaMemcpyHostToDevice, stream));
  } else {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaMemcpy2DAsync(target, slab.batch_pitch_bytes, query, slab.piece_bytes,
                                                  slab.piece_bytes, slab.count, cudaMemcpyHostToDevice, stream));
  }
  return Status::Ok();
}

Status CopySlabBack(std::byte* query, const std::byte* batch, const RowSlab& slab, cudaStream_t stream) {
  const std::byte* const source = batch + slab.batch_offset_bytes;
  if (slab.count == 1) {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(query, source, slab.piece_bytes, cudaMemcpyDeviceToHost, stream));
  } else {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaMemcpy2DAsync(query, slab.piece_bytes, source, slab.batch_pitch_bytes,
                                                  slab.piece_bytes, slab.count, cudaMemcpyDeviceToHost, stream));
  }
  return Status::Ok();
}

}  // namespace

BucketMemory::BucketMemory(const ModelProgram& program, uint32_t bucket, at::Device device, JobStaging* staging)
    : spec_(program.spec()),
      plan_(program.buckets()[bucket]),
      small_inputs_(SmallRowsOf(spec_.inputs, plan_.bucket)),
      small_outputs_(SmallRowsOf(spec_.outputs, plan_.bucket)),
      staging_(staging),
      synthetic_(SyntheticJob::OfManyQueries(spec_, plan_)),
      block_(at::empty({static_cast<int64_t>(small_inputs_.bytes)}, at::TensorOptions(at::kByte).device(device))) {
  for (size_t i = 0; i < plan_.inputs.size(); ++i) {
    const TensorPlan& input = plan_.inputs[i];
    at::Tensor& padding = padding_.emplace_back();
    if (small_inputs_.tensors[i]) {
      inputs_.push_back(ViewOf(block_, *small_inputs_.tensors[i], input));
      continue;
    }
    inputs_.push_back(at::empty(input.sizes, at::TensorOptions(input.dtype).device(device)));
    if (CanBePadded(spec_.inputs[i], plan_.bucket)) padding = PaddingOf(spec_.inputs[i], input, device);
  }
}

Status BucketMemory::CopyIn(JobTensors job, uint32_t sequence, cudaStream_t stream) const {
  if (job.empty()) job = synthetic_.queries();
  for (size_t i = 0; i < inputs_.size(); ++i) {  // these first: they run while the host gathers
    if (!small_inputs_.tensors[i]) ABACUS_RETURN_IF_ERROR(CopyLargeInput(i, job, stream));
  }
  if (small_inputs_.bytes == 0) return Status::Ok();
  std::byte* const staged = staging_->inputs(sequence);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const std::optional<TensorExtent>& place = small_inputs_.tensors[i];
    if (place) GatherInput({staged + place->offset_bytes, place->bytes}, spec_, plan_.bucket, i, job);
  }
  ABACUS_RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(block_.data_ptr(), staged, small_inputs_.bytes, cudaMemcpyHostToDevice, stream));
  return Status::Ok();
}

Status BucketMemory::CopyLargeInput(size_t index, JobTensors job, cudaStream_t stream) const {
  const TensorSpec& input = spec_.inputs[index];
  auto* const target = static_cast<std::byte*>(inputs_[index].data_ptr());
  const uint64_t bytes = inputs_[index].nbytes();
  if (const uint64_t filled = FilledBytes(input, plan_.bucket, job); filled < bytes) {
    const auto* const padding = static_cast<const std::byte*>(padding_[index].const_data_ptr());
    ABACUS_RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(target + filled, padding + filled, bytes - filled, cudaMemcpyDeviceToDevice, stream));
  }
  SlabCursor slabs(input, plan_.bucket);
  for (const QueryTensors& query : job) {
    ABACUS_RETURN_IF_ERROR(CopySlab(target, query.inputs[index], slabs.Next(query), stream));
  }
  return Status::Ok();
}

Status BucketMemory::CopyOut(JobTensors job, uint32_t sequence, cudaStream_t stream) const {
  if (job.empty()) job = synthetic_.queries();
  if (small_outputs_.bytes > 0) staging_->KeepQueries(sequence, job);
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const std::optional<TensorExtent>& place = small_outputs_.tensors[i];
    if (!place) {
      ABACUS_RETURN_IF_ERROR(CopyLargeOutput(i, job, stream));
      continue;
    }
    const bool has_rows = HasDim(spec_.outputs[i], kBatchDim);
    const auto batch = static_cast<uint64_t>(plan_.bucket.batch), rows = static_cast<uint64_t>(RowsOf(job));
    ABACUS_RETURN_IF_CUDA_ERROR(
        cudaMemcpyAsync(staging_->outputs(sequence) + place->offset_bytes, outputs_[i].const_data_ptr(),
                        has_rows ? place->bytes / batch * rows : place->bytes, cudaMemcpyDeviceToHost, stream));
  }
  return Status::Ok();
}

Status BucketMemory::CopyLargeOutput(size_t index, JobTensors job, cudaStream_t stream) const {
  const auto* const source = static_cast<const std::byte*>(outputs_[index].const_data_ptr());
  SlabCursor slabs(spec_.outputs[index], plan_.bucket);
  for (const QueryTensors& query : job) {
    ABACUS_RETURN_IF_ERROR(CopySlabBack(query.outputs[index], source, slabs.Next(query), stream));
  }
  return Status::Ok();
}

void BucketMemory::ScatterOutputs(uint32_t sequence) const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const std::optional<TensorExtent>& place = small_outputs_.tensors[i];
    if (!place) continue;
    ScatterOutput(staging_->outputs(sequence) + place->offset_bytes, spec_, plan_.bucket, i,
                  staging_->queries(sequence));
  }
}

Status BucketMemory::TryCopies(cudaStream_t stream) const {
  // All rows but one, where there are several, each one element short: plain and pitched copies, and padding.
  const SyntheticJob whole = SyntheticJob::OfOneQuery(spec_, plan_);
  QueryTensors query = whole.queries().front();
  if (query.rows > 1) --query.rows;
  if (query.sequence > 1) --query.sequence;
  ABACUS_RETURN_IF_ERROR(CopyIn({&query, 1}, 0, stream));
  ABACUS_RETURN_IF_ERROR(CopyOut({&query, 1}, 0, stream));
  ABACUS_RETURN_IF_ERROR(WaitIdle(stream));
  ScatterOutputs(0);
  return Status::Ok();
}

}  // namespace abacus
