#include "worker/cuda/gpu_device.h"

#include <ATen/Context.h>
#include <cuda_runtime_api.h>
#include <torch/headeronly/version.h>

#include <charconv>
#include <string_view>
#include <system_error>

#include "worker/cuda/cuda_raii.h"

namespace abacus {
namespace {

constexpr std::string_view kUuidPrefix = "GPU-";

tl::unexpected<Status> Unavailable(std::string message) { return Error(StatusCode::kUnavailable, std::move(message)); }

// As nvidia-smi prints it: "GPU-" and 8-4-4-4-12 hexadecimal digits.
std::string UuidText(const cudaUUID_t& uuid) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(kUuidPrefix);
  for (size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// The index that `gpu` stands for, among `count`.
Result<int> FindGpu(const std::string& gpu, int count) {
  if (gpu.starts_with(kUuidPrefix)) {
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp properties{};
      if (cudaGetDeviceProperties(&properties, i) == cudaSuccess && UuidText(properties.uuid) == gpu) return i;
    }
    return Unavailable("GPU " + gpu + " is not visible to this process (see CUDA_VISIBLE_DEVICES)");
  }
  int index = -1;
  const auto [end, error] = std::from_chars(gpu.data(), gpu.data() + gpu.size(), index);
  if (error == std::errc::invalid_argument || end != gpu.data() + gpu.size()) {
    return Unavailable("GPU \"" + gpu + "\" is neither an index nor a UUID (GPU-...)");
  }
  if (error != std::errc() || index < 0 || index >= count) {
    return Unavailable("GPU " + gpu + " does not exist: the process sees " + std::to_string(count) +
                       " (see CUDA_VISIBLE_DEVICES)");
  }
  return index;
}

}  // namespace

Result<int> UseGpu(const std::string& gpu) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return Unavailable("cannot use a GPU: " + CudaStatus(error, "cudaGetDeviceCount").message());
  }
  const Result<int> index = FindGpu(gpu, count);
  if (!index) return index;
  const Status status = CudaStatus(cudaSetDevice(*index), "cudaSetDevice(" + std::to_string(*index) + ")");
  if (!status.ok()) return Unavailable(status.message());
  return index;
}

std::string GpuName(int gpu) {
  cudaDeviceProp properties{};
  const cudaError_t error = cudaGetDeviceProperties(&properties, gpu);
  return error == cudaSuccess ? properties.name : "GPU " + std::to_string(gpu);
}

std::string GpuLibraries() {
  int cuda = 0;  // 1000 * major + 10 * minor
  (void)cudaRuntimeGetVersion(&cuda);
  std::string libraries =
      "LibTorch " TORCH_VERSION ", CUDA " + std::to_string(cuda / 1000) + "." + std::to_string(cuda % 1000 / 10);
  if (at::globalContext().hasCuDNN()) {
    const auto cudnn = at::Context::versionRuntimeCuDNN();  // 10000 * major + 100 * minor + patch
    libraries += ", cuDNN " + std::to_string(cudnn / 10000) + "." + std::to_string(cudnn % 10000 / 100) + "." +
                 std::to_string(cudnn % 100);
  }
  return libraries;
}

}  // namespace abacus
