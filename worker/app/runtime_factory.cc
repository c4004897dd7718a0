#include "worker/app/runtime_factory.h"

#include <ATen/Parallel.h>
#include <c10/util/StringUtil.h>
#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "worker/cpu/interpreter_runtime.h"
#include "worker/cuda/cuda_module.h"
#include "worker/torch/torch_script_program.h"

namespace abacus {
namespace {

// Beside the program, in the build tree's or an installation's neighbouring folder, else wherever the dynamic linker
// finds it.
std::string CudaModulePath() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* neighbour : {".", "../bin", "../lib"}) {
    const std::filesystem::path path = folder / neighbour / kCudaModuleFile;
    if (std::filesystem::exists(path, error)) return path.lexically_normal().string();
  }
  return kCudaModuleFile;
}

// Opens the module; it stays open until the process exits.
Result<const CudaModule*> OpenCudaModule() {
  // LibTorch's CUDA libraries look some of their own parts up among the global symbols.
  void* const handle = dlopen(CudaModulePath().c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    return Error(StatusCode::kUnavailable,
                 c10::str("cannot use a GPU: the CUDA runtime of Abacus does not load (", reason ? reason : "unknown",
                          "). Build with the CUDA toolkit and ABACUS_WITH_CUDA=ON, or set device to \"cpu\""));
  }
  auto* const entry = reinterpret_cast<CudaModuleEntry*>(dlsym(handle, kCudaModuleEntry));
  if (entry == nullptr) {
    return Error(StatusCode::kUnavailable, c10::str(kCudaModuleFile, " is not part of this build of Abacus"));
  }
  return entry();
}

// LibTorch accepts the number of inter-operator threads only before it started any.
void LimitThreads(int cpu_threads) {
  if (at::get_num_interop_threads() != 1) at::set_num_interop_threads(1);
  if (cpu_threads > 0) at::set_num_threads(cpu_threads);
}

}  // namespace

std::string DeviceText(const RuntimeOptions& options) {
  return options.device == RuntimeOptions::Device::kCpu ? "cpu" : "cuda:" + options.gpu;
}

Result<std::unique_ptr<TorchRuntime>> LoadTorchRuntime(const ModelSpec& spec, const RuntimeOptions& options) {
  if (options.device == RuntimeOptions::Device::kCpu) {
    LimitThreads(options.cpu_threads);
    Result<std::unique_ptr<TorchScriptProgram>> program =
        TorchScriptProgram::Load(spec, at::kCPU, options.hooks.progress);
    if (!program) return Error(program.error());
    return InterpreterRuntime::Create(std::move(*program), options.hooks);
  }
  // The module comes first: LibTorch looks for CUDA support once, when a tensor function is first called.
  const Result<const CudaModule*> module = OpenCudaModule();
  if (!module) return Error(module.error());
  const Result<int> gpu = (*module)->use_gpu(options.gpu);
  if (!gpu) return Error(gpu.error());
  LimitThreads(options.cpu_threads);
  const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(*gpu));
  Result<std::unique_ptr<TorchScriptProgram>> program = TorchScriptProgram::Load(spec, device, options.hooks.progress);
  if (!program) return Error(program.error());
  return (*module)->create(std::move(*program), *gpu, options.gpu_timestamps, options.hooks);
}

}  // namespace abacus
