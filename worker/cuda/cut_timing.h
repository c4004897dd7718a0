// Where to cut a captured bucket, measured on the GPU.
//
// Passes are run in up to kMaxPieces pieces with an event after each, and the fastest time of each piece over
// kCutPasses counts, so that other workers that load on the same GPU disturb little. Cuts are placed at equal shares of
// the sum. Pieces run in order: one without its prefix would read stale memory, and a stale index can fault the GPU.
//
// Thread rule: one thread, with the GPU as its current device. Errors: WORKER_FAILED with the CUDA call.
#ifndef ABACUS_WORKER_CUDA_CUT_TIMING_H_
#define ABACUS_WORKER_CUDA_CUT_TIMING_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "worker/cuda/bucket_memory.h"
#include "worker/cuda/sliced_graph.h"

namespace abacus {

// Cut points as in BucketRanges. Waits for the stream.
Result<std::vector<uint32_t>> MeasureCuts(const SlicedGraph& graph, const BucketMemory& memory, cudaStream_t stream);

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_CUT_TIMING_H_
