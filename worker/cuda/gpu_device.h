// The GPUs that this process sees: which one a name stands for, and what it and its libraries are called.
//
// Thread rule: UseGpu sets the calling thread's device; the others have no state. Errors: UNAVAILABLE.
#ifndef ABACUS_WORKER_CUDA_GPU_DEVICE_H_
#define ABACUS_WORKER_CUDA_GPU_DEVICE_H_

#include <string>

#include "base/status.h"

namespace abacus {

// `gpu` is an index, as CUDA counts the visible GPUs, or a UUID as nvidia-smi prints it ("GPU-..."). Returns the index
// and makes the GPU the thread's current device.
Result<int> UseGpu(const std::string& gpu);

// "NVIDIA H100 80GB HBM3"
std::string GpuName(int gpu);
// "LibTorch 2.11.0, CUDA 13.0, cuDNN 9.19.0"
std::string GpuLibraries();

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_GPU_DEVICE_H_
