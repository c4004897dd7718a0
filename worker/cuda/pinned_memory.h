// Shared memory made page-locked, so that the GPU copies from and to it, or reads it, by itself.
//
// Thread rule: plain owners; the thread's current device is the one that will use the memory. Ownership: the memory is
// the caller's and outlives the owner, which only unlocks it. Errors: WORKER_FAILED with the CUDA call; nothing is
// locked then.
#ifndef ABACUS_WORKER_CUDA_PINNED_MEMORY_H_
#define ABACUS_WORKER_CUDA_PINNED_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <span>

#include "base/status.h"
#include "shm/layout.h"

namespace abacus {

struct CudaUnregister {
  void operator()(std::byte* memory) const { (void)cudaHostUnregister(memory); }
};
using UniquePinned = std::unique_ptr<std::byte, CudaUnregister>;

// `arena` starts on a page.
Result<UniquePinned> PinArena(std::span<std::byte> arena);

// The gate's page, and where the device sees the gate's value.
struct PinnedGate {
  UniquePinned page;
  const void* device_value = nullptr;
};
Result<PinnedGate> PinGate(GateWord* gate);

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_PINNED_MEMORY_H_
