// BucketMemory: the tensors that the captured graph of one bucket reads and writes, and the copies between them and the
// memory of a job's queries.
//
// Inputs with small rows (worker/torch/small_rows.h) lie together in one block on the device. The host gathers the rows
// and their padding in a block of the same layout in page-locked memory (job_staging.h), which is sent as one copy; in
// the same way each output with small rows comes back as one copy, which the host scatters when the range has ended.
// Large rows take one copy for every query, straight between where the query lies and their rows of the static tensor.
//
// What the queries leave unfilled of an input is overwritten with padding every time: so what the graph reads is always
// defined, and never what another client sent. Of large rows that is a copy on the device, from the first byte on that
// is not filled; where shorter queries leave gaps, the queries' copies follow and overwrite what is theirs.
//
// A synthetic job makes the same copies as a batch of queries of one row each (synthetic_job.h).
//
// Thread rule: one thread. Ownership: owns its tensors; program and staging outlive it. Errors: WORKER_FAILED with the
// CUDA call; the constructor throws what LibTorch throws.
#ifndef ABACUS_WORKER_CUDA_BUCKET_MEMORY_H_
#define ABACUS_WORKER_CUDA_BUCKET_MEMORY_H_

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "worker/cuda/job_staging.h"
#include "worker/cuda/synthetic_job.h"
#include "worker/runtime/model_runtime.h"
#include "worker/torch/model_program.h"
#include "worker/torch/small_rows.h"

namespace abacus {

class BucketMemory {
 public:
  // Inputs for the bucket on the device, undefined until the first CopyIn. Outputs come from the capture.
  BucketMemory(const ModelProgram& program, uint32_t bucket, at::Device device, JobStaging* staging);

  const std::vector<at::Tensor>& inputs() const { return inputs_; }
  const std::vector<at::Tensor>& outputs() const { return outputs_; }
  void set_outputs(std::vector<at::Tensor> outputs) { outputs_ = std::move(outputs); }

  // Enqueue the copies of a job that CheckJob accepts. `sequence` is the number of the range that they belong to.
  Status CopyIn(JobTensors job, uint32_t sequence, cudaStream_t stream) const;
  Status CopyOut(JobTensors job, uint32_t sequence, cudaStream_t stream) const;
  // Once the copies of CopyOut have ended: writes what they left in the staging memory.
  void ScatterOutputs(uint32_t sequence) const;
  // Makes every kind of copy once, so that none is the first of its kind while queries wait, and waits for them. Needs
  // the outputs.
  Status TryCopies(cudaStream_t stream) const;

 private:
  Status CopyLargeInput(size_t index, JobTensors job, cudaStream_t stream) const;
  Status CopyLargeOutput(size_t index, JobTensors job, cudaStream_t stream) const;

  const ModelSpec& spec_;
  const BucketPlan& plan_;
  const SmallRows small_inputs_;
  const SmallRows small_outputs_;
  JobStaging* const staging_;
  SyntheticJob synthetic_;
  at::Tensor block_;                // on the device: the inputs with small rows
  std::vector<at::Tensor> inputs_;  // views of the block, and tensors of their own
  std::vector<at::Tensor> outputs_;
  std::vector<at::Tensor> padding_;  // by input, on the device; undefined where there is none or the host adds it
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_BUCKET_MEMORY_H_
