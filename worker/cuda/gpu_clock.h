// GpuClock: records on a stream what time it is on the GPU, when the work before has ended.
//
// CUDA's events give only differences between them, and only after a wait; this is a kernel of one thread that writes
// the GPU's global timer (nanoseconds; the same for all processes on the GPU, unrelated to the host's clocks; it
// advances in steps of up to a microsecond) to host memory.
//
// The kernel is PTX text, compiled by the driver when it is loaded: the build needs no CUDA compiler.
//
// Thread rule: one thread, whose current device is the one that Create was called with. Errors: UNAVAILABLE from Create
// when the driver cannot load the kernel; then nothing was changed.
#ifndef ABACUS_WORKER_CUDA_GPU_CLOCK_H_
#define ABACUS_WORKER_CUDA_GPU_CLOCK_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/status.h"

namespace abacus {

class GpuClock {
 public:
  static Result<GpuClock> Create();

  // Enqueues the writing of the time to `slot`, page-locked memory as the device sees it.
  Status Record(cudaStream_t stream, uint64_t* slot) const;

 private:
  using LaunchKernel = CUresult(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                CUstream, void**, void**);

  GpuClock(CUfunction kernel, LaunchKernel* launch) : kernel_(kernel), launch_(launch) {}

  CUfunction kernel_;  // stays loaded as long as the process lives
  LaunchKernel* launch_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_GPU_CLOCK_H_
