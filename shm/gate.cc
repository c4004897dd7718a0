#include "shm/gate.h"

#include "base/clock.h"
#include "shm/doorbell.h"
#include "shm/futex.h"

namespace abacus {

void Gate::Open(uint32_t value) {
  word_->value.store(value, std::memory_order_seq_cst);
  if (word_->waiting.load(std::memory_order_seq_cst) != 0) FutexWakeAll(&word_->value);
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
    if (static_cast<int32_t>(seen - value) < 0) FutexWait(&word_->value, seen, timeout_ns - waited_ns);
    word_->waiting.fetch_sub(1, std::memory_order_seq_cst);
  }
  return true;
}

}  // namespace abacus
