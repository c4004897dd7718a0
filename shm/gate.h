// Gate: lets ranges be sent ahead of their round and start together the moment it opens.
//
// The controller sends a round's commands while the round before still runs; each names the gate value at which it may
// start. Workers hold it back, on the host or on the GPU itself (cuStreamWaitValue32 on this word, which has the same
// cyclic comparison), until the controller opens the gate with one store.
//
// Values only grow, cyclically: `value` is reached when the difference to it, as a signed number, is not negative.
//
// SYNC POINT: Open writes `value` and then reads `waiting`; a sleeper writes `waiting` and then reads `value`, both
// sequentially consistent, so at least one of them sees the other.
//
// Thread rule: one opener, any number of waiters. Ownership: borrows the word.
#ifndef ABACUS_SHM_GATE_H_
#define ABACUS_SHM_GATE_H_

#include <cstdint>

#include "shm/layout.h"

namespace abacus {

class Gate {
 public:
  explicit Gate(GateWord* word) : word_(word) {}

  uint32_t value() const { return word_->value.load(std::memory_order_acquire); }
  bool Reached(uint32_t value) const { return static_cast<int32_t>(this->value() - value) >= 0; }
  void Open(uint32_t value);
  // Lets everything through that can still be waiting. For workers whose controller is gone; all of them may do it.
  void OpenForGood() { Open(value() + (1u << 20)); }
  // Returns whether the gate reached `value` within `timeout_ns`. Spins `spin_ns` before it sleeps.
  bool Wait(uint32_t value, uint64_t timeout_ns, uint64_t spin_ns) const;

 private:
  GateWord* word_;
};

}  // namespace abacus

#endif  // ABACUS_SHM_GATE_H_
