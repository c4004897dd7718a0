// Doorbell: lets one side of a ring sleep until the other side has something for it, across processes.
//
// A waiter reads Ticket(), checks its rings, and calls Wait(ticket, ...) when they were empty. Ring() after every push
// changes the value, so a push between the check and the wait is never missed. Ringing costs one locked add and one
// load while nobody sleeps. Nothing waits without a deadline, so a peer that dies cannot hang us.
//
// SYNC POINT: Ring() and Wait() each write one word (value / waiting) and then read the other's with sequential
// consistency, so at least one of them sees the other (Dekker): either the waiter sees the new value and does not
// sleep, or the ringer sees the waiter and wakes it.
//
// Thread rule: any number of ringers, one waiter.
#ifndef ABACUS_SHM_DOORBELL_H_
#define ABACUS_SHM_DOORBELL_H_

#include <cstdint>

#include "shm/layout.h"

namespace abacus {

class Doorbell {
 public:
  explicit Doorbell(DoorbellWord* word) : word_(word) {}

  void Ring();
  uint32_t Ticket() const { return word_->value.load(std::memory_order_acquire); }
  // Returns when rung since `ticket`, or after `timeout_ns`, or spuriously. Spins for the first `spin_ns` of that.
  void Wait(uint32_t ticket, uint64_t timeout_ns, uint64_t spin_ns);

 private:
  DoorbellWord* word_;  // not owned; outlives this
};

// One pause instruction: tells the core that we spin.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace abacus

#endif  // ABACUS_SHM_DOORBELL_H_
