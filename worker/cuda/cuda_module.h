// The entry point of libabacus_cuda_runtime.so, shared by the module and the program that opens it.
//
// Both sides are built together from the same headers; the module holds everything that needs LibTorch's CUDA
// libraries and nothing else.
// Thread rule: as LoadTorchRuntime.
#ifndef ABACUS_WORKER_CUDA_CUDA_MODULE_H_
#define ABACUS_WORKER_CUDA_CUDA_MODULE_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "worker/torch/model_program.h"
#include "worker/torch/torch_runtime.h"

namespace abacus {

struct CudaModule {
  // The CUDA index of `gpu`, an index or a UUID, which becomes the thread's current device. UNAVAILABLE with the reason
  // unless the process can use it.
  Result<int> (*use_gpu)(const std::string& gpu);
  // Captures and measures every bucket of a program that was loaded onto that GPU.
  Result<std::unique_ptr<TorchRuntime>> (*create)(std::unique_ptr<ModelProgram> program, int gpu, bool timestamps,
                                                  const LoadHooks& hooks);
};

// The module exports `const CudaModule* AbacusCudaModule()` with C linkage.
inline constexpr const char* kCudaModuleFile = "libabacus_cuda_runtime.so";
inline constexpr const char* kCudaModuleEntry = "AbacusCudaModule";
using CudaModuleEntry = const CudaModule*();

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_CUDA_MODULE_H_
