#include "worker/cuda/bucket_memory.h"

#include <ATen/ops/empty.h>

#include <cstddef>
#include <span>

#include "models/tensor_layout.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

at::Tensor PinnedEmpty(const TensorPlan& plan) {
  return at::empty(plan.sizes, at::TensorOptions(plan.dtype).pinned_memory(true));
}

at::Tensor PaddingOf(const TensorSpec& input, const TensorPlan& plan, at::Device device) {
  const at::Tensor host = at::empty(plan.sizes, at::TensorOptions(plan.dtype));
  FillPadding({static_cast<std::byte*>(host.data_ptr()), host.nbytes()}, input);
  return host.to(device);
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

BucketMemory::BucketMemory(const ModelProgram& program, uint32_t bucket, at::Device device)
    : spec_(program.spec()), plan_(program.buckets()[bucket]) {
  for (size_t i = 0; i < plan_.inputs.size(); ++i) {
    const TensorPlan& input = plan_.inputs[i];
    sample_.push_back(PinnedEmpty(input).copy_(plan_.sample[i]));
    inputs_.push_back(at::empty(input.sizes, at::TensorOptions(input.dtype).device(device)));
    padding_.push_back(CanBePadded(spec_.inputs[i], plan_.bucket) ? PaddingOf(spec_.inputs[i], input, device)
                                                                  : at::Tensor());
  }
  for (const TensorPlan& output : plan_.outputs) scratch_.push_back(PinnedEmpty(output));
}

Status BucketMemory::CopyIn(JobTensors job, cudaStream_t stream) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    auto* const target = static_cast<std::byte*>(inputs_[i].data_ptr());
    const size_t bytes = inputs_[i].nbytes();
    if (job.empty()) {
      ABACUS_RETURN_IF_CUDA_ERROR(
          cudaMemcpyAsync(target, sample_[i].const_data_ptr(), bytes, cudaMemcpyHostToDevice, stream));
      continue;
    }
    if (!Fills(spec_.inputs[i], plan_.bucket, job)) {
      ABACUS_RETURN_IF_CUDA_ERROR(
          cudaMemcpyAsync(target, padding_[i].const_data_ptr(), bytes, cudaMemcpyDeviceToDevice, stream));
    }
    SlabCursor slabs(spec_.inputs[i], plan_.bucket);
    for (const QueryTensors& query : job) {
      ABACUS_RETURN_IF_ERROR(CopySlab(target, query.inputs[i], slabs.Next(query), stream));
    }
  }
  return Status::Ok();
}

Status BucketMemory::CopyOut(JobTensors job, cudaStream_t stream) const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const auto* const source = static_cast<const std::byte*>(outputs_[i].const_data_ptr());
    if (job.empty()) {
      ABACUS_RETURN_IF_CUDA_ERROR(
          cudaMemcpyAsync(scratch_[i].data_ptr(), source, outputs_[i].nbytes(), cudaMemcpyDeviceToHost, stream));
      continue;
    }
    SlabCursor slabs(spec_.outputs[i], plan_.bucket);
    for (const QueryTensors& query : job) {
      ABACUS_RETURN_IF_ERROR(CopySlabBack(query.outputs[i], source, slabs.Next(query), stream));
    }
  }
  return Status::Ok();
}

Status BucketMemory::TryCopies(cudaStream_t stream) const {
  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outputs;
  for (const at::Tensor& tensor : sample_) inputs.push_back(static_cast<const std::byte*>(tensor.const_data_ptr()));
  for (const at::Tensor& tensor : scratch_) outputs.push_back(static_cast<std::byte*>(tensor.data_ptr()));
  const auto rows = static_cast<uint32_t>(plan_.bucket.batch);
  // All rows but one, where there are several, each one element short: plain and pitched copies, and padding.
  const QueryTensors query = {
      rows > 1 ? rows - 1 : 1,
      static_cast<uint32_t>(plan_.bucket.sequence > 1 ? plan_.bucket.sequence - 1 : plan_.bucket.sequence), inputs,
      outputs};
  ABACUS_RETURN_IF_ERROR(CopyIn({&query, 1}, stream));
  return CopyOut({&query, 1}, stream);
}

}  // namespace abacus
