#include "worker/cuda/pinned_memory.h"

#include <cstdint>
#include <string>

#include "worker/cuda/cuda_raii.h"

namespace abacus {
namespace {

// Takes the error out of CUDA's record of the last one, where LibTorch would find it.
tl::unexpected<Status> Failure(cudaError_t error, const std::string& what) {
  (void)cudaGetLastError();
  return Error(CudaStatus(error, what));
}

}  // namespace

Result<UniquePinned> PinArena(std::span<std::byte> arena) {
  const cudaError_t error = cudaHostRegister(arena.data(), arena.size(), cudaHostRegisterDefault);
  if (error == cudaSuccess) return UniquePinned(arena.data());
  return Failure(error, "cudaHostRegister of " + std::to_string(arena.size()) + " bytes of shared memory");
}

Result<PinnedGate> PinGate(GateWord* gate) {
  // The page holds nothing but what belongs to the gate's lane: the arena starts on another one (see layout.h).
  auto* const page = reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(gate) / kPageBytes * kPageBytes);
  if (const cudaError_t error = cudaHostRegister(page, kPageBytes, cudaHostRegisterMapped); error != cudaSuccess) {
    return Failure(error, "cudaHostRegister of the gate's page");
  }
  PinnedGate pinned{UniquePinned(page), nullptr};
  void* address = nullptr;
  if (const cudaError_t error = cudaHostGetDevicePointer(&address, &gate->value, /*flags=*/0); error != cudaSuccess) {
    return Failure(error, "cudaHostGetDevicePointer of the gate");
  }
  pinned.device_value = address;
  return pinned;
}

}  // namespace abacus
