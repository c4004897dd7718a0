// BucketMemory: the tensors that the captured graph of one bucket reads and writes, and the copies between them and the
// memory of a job's queries.
//
// For every query and input there is one copy, straight from where the query lies to its rows of the static input, and
// the same way back for outputs. Where the queries leave something of an input unfilled, the whole of it is first
// overwritten with padding, from a copy on the device: so what the graph reads is always defined, and never what
// another client sent. A query that fills its bucket takes one plain copy for each tensor. A synthetic job makes the
// same copies from and to page-locked memory of its own, so it takes as long as a real one.
//
// Thread rule: one thread. Ownership: owns its tensors; the program outlives it. Errors: WORKER_FAILED with the CUDA
// call; the constructor throws what LibTorch throws.
#ifndef ABACUS_WORKER_CUDA_BUCKET_MEMORY_H_
#define ABACUS_WORKER_CUDA_BUCKET_MEMORY_H_

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "worker/runtime/model_runtime.h"
#include "worker/torch/model_program.h"

namespace abacus {

class BucketMemory {
 public:
  // Inputs for the bucket on the device, filled with padding. Outputs come from the capture.
  BucketMemory(const ModelProgram& program, uint32_t bucket, at::Device device);

  const std::vector<at::Tensor>& inputs() const { return inputs_; }
  const std::vector<at::Tensor>& outputs() const { return outputs_; }
  void set_outputs(std::vector<at::Tensor> outputs) { outputs_ = std::move(outputs); }

  // Enqueue the copies of a job that CheckJob accepts.
  Status CopyIn(JobTensors job, cudaStream_t stream) const;
  Status CopyOut(JobTensors job, cudaStream_t stream) const;
  // Makes every kind of copy once, so that none is the first of its kind while queries wait. Needs the outputs.
  Status TryCopies(cudaStream_t stream) const;

 private:
  const ModelSpec& spec_;
  const BucketPlan& plan_;
  std::vector<at::Tensor> inputs_;
  std::vector<at::Tensor> outputs_;
  std::vector<at::Tensor> padding_;  // by input; undefined where there is none
  // Page-locked host memory of synthetic jobs.
  std::vector<at::Tensor> sample_;
  std::vector<at::Tensor> scratch_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_BUCKET_MEMORY_H_
