#include "shm/gate.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

#include "shm/clock.h"
#include "shm/doorbell.h"

namespace abacus {
namespace {

uint32_t* RawWord(ShmAtomic<uint32_t>* word) { return reinterpret_cast<uint32_t*>(word); }

}  // namespace

void Gate::Open(uint32_t value) {
  word_->value.store(value, std::memory_order_seq_cst);
  if (word_->waiting.load(std::memory_order_seq_cst) != 0) {
    syscall(SYS_futex, RawWord(&word_->value), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
}

bool Gate::Wait(uint32_t value, uint64_t timeout_ns, uint64_t spin_ns) const {
  const uint64_t begin_ns = MonotonicNs();
  while (!Reached(value)) {
    const uint64_t waited_ns = MonotonicNs() - begin_ns;
    if (waited_ns >= timeout_ns) return false;
    if (waited_ns < spin_ns) {
      for (int i = 0; i < 16 && !Reached(value); ++i) CpuRelax();
      continue;
    }
    word_->waiting.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = word_->value.load(std::memory_order_seq_cst);
    if (static_cast<int32_t>(seen - value) < 0) {
      const uint64_t left_ns = timeout_ns - waited_ns;
      timespec timeout{static_cast<time_t>(left_ns / kNsPerSecond), static_cast<long>(left_ns % kNsPerSecond)};
      syscall(SYS_futex, RawWord(&word_->value), FUTEX_WAIT, seen, &timeout, nullptr, 0);
    }
    word_->waiting.fetch_sub(1, std::memory_order_seq_cst);
  }
  return true;
}

}  // namespace abacus
