#include "shm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm/clock.h"

namespace abacus {
namespace {

// The kernel works on the raw 32-bit word; ShmAtomic<uint32_t> is exactly that (layout.h asserts the size).
uint32_t* RawWord(ShmAtomic<uint32_t>* word) { return reinterpret_cast<uint32_t*>(word); }

}  // namespace

void Doorbell::Ring() {
  word_->value.fetch_add(1, std::memory_order_seq_cst);
  if (word_->waiting.load(std::memory_order_seq_cst) != 0) {
    syscall(SYS_futex, RawWord(&word_->value), FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
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
  if (word_->value.load(std::memory_order_seq_cst) == ticket) {
    timespec timeout{static_cast<time_t>(left_ns / kNsPerSecond), static_cast<long>(left_ns % kNsPerSecond)};
    // FUTEX_WAIT counts a relative timeout on the monotonic clock. Spurious and early returns are the caller's loop.
    syscall(SYS_futex, RawWord(&word_->value), FUTEX_WAIT, ticket, &timeout, nullptr, 0);
  }
  word_->waiting.store(0, std::memory_order_relaxed);
}

}  // namespace abacus
