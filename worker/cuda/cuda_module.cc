#include "worker/cuda/cuda_module.h"

#include "worker/cuda/gpu_device.h"
#include "worker/cuda/graph_runtime.h"

extern "C" __attribute__((visibility("default"))) const abacus::CudaModule* AbacusCudaModule() {
  static constexpr abacus::CudaModule kModule = {&abacus::UseGpu, &abacus::GraphRuntime::Create};
  return &kModule;
}
