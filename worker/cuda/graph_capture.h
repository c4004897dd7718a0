// Captures one bucket of a program in a CUDA graph.
//
// Static input tensors are made, the program runs a few times on the given stream, and one run is captured; the outputs
// of the captured graph must agree with the last uncaptured run. All buckets capture into one memory pool: only one job
// is in progress at a time, and a new job abandons the old one, so no bucket's intermediate values need to survive a
// run of another bucket. Static inputs and outputs are each bucket's own.
//
// Thread rule: one thread, with the GPU as its current device. Ownership: program and staging memory outlive the
// captured bucket. Errors: INVALID_ARGUMENT for a program that cannot be captured or whose outputs are wrong,
// WORKER_FAILED with the CUDA call; LibTorch's exceptions pass through.
#ifndef ABACUS_WORKER_CUDA_GRAPH_CAPTURE_H_
#define ABACUS_WORKER_CUDA_GRAPH_CAPTURE_H_

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "worker/cuda/bucket_memory.h"
#include "worker/cuda/sliced_graph.h"
#include "worker/torch/model_program.h"

namespace abacus {

// Where to capture: a stream of the program's GPU, and the pool and the staging memory that all its buckets share.
struct CaptureSite {
  at::DeviceIndex gpu;
  c10::cuda::CUDAStream stream;
  c10::MempoolId_t pool;
  JobStaging* staging;
};

struct CapturedBucket {
  BucketMemory memory;
  std::unique_ptr<at::cuda::CUDAGraph> graph;
  SlicedGraph sliced;  // of `graph`
};

Result<CapturedBucket> CaptureBucket(ModelProgram& program, uint32_t bucket, const CaptureSite& site);

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_GRAPH_CAPTURE_H_
