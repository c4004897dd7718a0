#include "shm/doorbell.h"

#include "base/clock.h"
#include "shm/futex.h"

namespace abacus {

void Doorbell::Ring() {
  word_->value.fetch_add(1, std::memory_order_seq_cst);
  if (word_->waiting.load(std::memory_order_seq_cst) != 0) FutexWakeOne(&word_->value);
}

void Doorbell::Wait(uint32_t ticket, uint64_t timeout_ns, uint64_t spin_ns) {
  uint64_t left_ns = timeout_ns;
  if (spin_ns > 0) {
    const uint64_t begin_ns = MonotonicNs();
    uint64_t spun_ns = 0;
    do {
      for (int i = 0; i < 32; ++i) {
        if (word_->value.load(std::memory_order_acquire) != ticket) return;
        CpuRelax();
      }
      spun_ns = MonotonicNs() - begin_ns;
      if (spun_ns >= timeout_ns) return;
    } while (spun_ns < spin_ns);
    left_ns -= spun_ns;
  }
  word_->waiting.store(1, std::memory_order_seq_cst);
  if (word_->value.load(std::memory_order_seq_cst) == ticket) FutexWait(&word_->value, ticket, left_ns);
  word_->waiting.store(0, std::memory_order_relaxed);
}

}  // namespace abacus
