// DeviceMailbox: what the GPU writes for the host to read as ranges end, in page-locked memory.
//
// Ranges are numbered as they are started. The GPU writes the number of the last one that ended, after everything that
// the range wrote to host memory, and the times at which each began and ended.
//
// Thread rule: the host's side is one thread's. Errors: WORKER_FAILED from Create.
#ifndef ABACUS_WORKER_CUDA_DEVICE_MAILBOX_H_
#define ABACUS_WORKER_CUDA_DEVICE_MAILBOX_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <new>

#include "base/status.h"
#include "shm/layout.h"
#include "shm/shm_atomic.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/runtime/model_runtime.h"

namespace abacus {

class DeviceMailbox {
 public:
  DeviceMailbox() = default;
  static Result<DeviceMailbox> Create() {
    void* memory = nullptr;
    ABACUS_RETURN_IF_CUDA_ERROR(cudaHostAlloc(&memory, sizeof(Words), cudaHostAllocMapped));
    DeviceMailbox mailbox;
    mailbox.host_.reset(new (memory) Words);
    void* address = nullptr;
    ABACUS_RETURN_IF_CUDA_ERROR(cudaHostGetDevicePointer(&address, memory, /*flags=*/0));
    mailbox.device_ = static_cast<Words*>(address);
    return mailbox;
  }

  // SYNC POINT: acquires what the GPU wrote to host memory before the number.
  bool HasEnded(uint32_t sequence) const {
    return static_cast<int32_t>(host_->ended.load(std::memory_order_acquire) - sequence) >= 0;
  }
  const DeviceTimes& times(uint32_t sequence) const { return host_->times[sequence % host_->times.size()]; }

  // Addresses on the device, to enqueue writes to.
  const void* device_ended() const { return &device_->ended; }
  uint64_t* device_started_ns(uint32_t sequence) const { return &DeviceSlot(sequence).started_ns; }
  uint64_t* device_ended_ns(uint32_t sequence) const { return &DeviceSlot(sequence).ended_ns; }

 private:
  struct Words {
    ShmAtomic<uint32_t> ended{0};
    alignas(kCacheLineBytes) std::array<DeviceTimes, ModelRuntime::kMaxStarted> times{};  // by sequence number
  };

  DeviceTimes& DeviceSlot(uint32_t sequence) const { return device_->times[sequence % ModelRuntime::kMaxStarted]; }

  UniqueCudaHost<Words> host_;
  Words* device_ = nullptr;  // the same memory at its address on the device
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_DEVICE_MAILBOX_H_
