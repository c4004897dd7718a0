#include "controller/workers/device.h"

#include <unistd.h>

#include "base/log.h"

namespace abacus {

namespace fs = std::filesystem;

fs::path ProgramDirectory() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

DeviceKind ResolveDevice(DeviceKind configured, const fs::path& bin_dir) {
  if (configured != DeviceKind::kAuto) return configured;
  const bool gpu = access("/dev/nvidiactl", F_OK) == 0;
  const bool built = fs::exists(bin_dir / "libabacus_cuda_runtime.so");
  if (gpu && !built) LogWarn("a GPU is here, but Abacus was built without CUDA; using the CPU");
  return gpu && built ? DeviceKind::kCuda : DeviceKind::kCpu;
}

}  // namespace abacus
