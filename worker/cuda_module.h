// The entry point of libabacus_cuda_runtime.so, shared by the module and the program that opens it.
//
// Both sides are built together from the same headers; the module holds everything that needs LibTorch's CUDA
// libraries and nothing else.
// Thread rule: as LoadTorchRuntime.
#ifndef ABACUS_WORKER_CUDA_MODULE_H_
#define ABACUS_WORKER_CUDA_MODULE_H_

#include <memory>

#include "shm/status.h"
#include "worker/model_loader.h"
#include "worker/torch_runtime.h"

namespace abacus {

struct CudaModule {
  // UNAVAILABLE with the reason unless the process can use GPU `gpu`. Makes it the thread's current device.
  Status (*use_gpu)(int gpu);
  // Captures and measures every bucket of a model that was loaded onto that GPU.
  Result<std::unique_ptr<TorchRuntime>> (*create)(LoadedModel model, int gpu, bool timestamps,
                                                  const ProgressFn& progress);
};

// The module exports `const CudaModule* AbacusCudaModule()` with C linkage.
inline constexpr const char* kCudaModuleFile = "libabacus_cuda_runtime.so";
inline constexpr const char* kCudaModuleEntry = "AbacusCudaModule";
using CudaModuleEntry = const CudaModule*();

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_MODULE_H_
