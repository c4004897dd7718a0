// Loads a model file into a runtime for the CPU or a GPU.
//
// The GPU runtime lives in a module of its own, libabacus_cuda_runtime.so, opened only when a GPU is asked for: a CPU
// worker does not pay for loading LibTorch's CUDA libraries. The module is searched beside the program, in ../bin and
// ../lib from there, then where the dynamic linker searches.
//
// Thread rule: call LoadTorchRuntime from the thread that will run the model. The first call in a process decides
// whether LibTorch sees a GPU: load a GPU runtime before, or instead of, a CPU one.
#ifndef ABACUS_WORKER_APP_RUNTIME_FACTORY_H_
#define ABACUS_WORKER_APP_RUNTIME_FACTORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/torch/torch_runtime.h"

namespace abacus {

struct RuntimeOptions {
  enum class Device { kCpu, kCuda };
  Device device = Device::kCpu;
  std::string gpu = "0";        // index among the GPUs visible to the process, or a UUID ("GPU-...")
  int cpu_threads = 1;          // threads of one operator; 0: as many as the machine has cores
  bool gpu_timestamps = false;  // record on the GPU when ranges begin and end (see gpu_clock.h)
  LoadHooks hooks;
};

// "cpu", or "cuda:" and the GPU.
std::string DeviceText(const RuntimeOptions& options);

// Loads, optimises and checks the model, prepares every bucket and measures its cut points as the hooks say. Errors:
// NOT_FOUND (no model file), INVALID_ARGUMENT (the file is corrupt, contradicts its TOML, or its optimised outputs
// differ from the plain ones by more than the tolerance), UNAVAILABLE (no such GPU, or built without CUDA),
// WORKER_FAILED (the device reported an error).
Result<std::unique_ptr<TorchRuntime>> LoadTorchRuntime(const ModelSpec& spec, const RuntimeOptions& options);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_RUNTIME_FACTORY_H_
