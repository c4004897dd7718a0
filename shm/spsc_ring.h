// SpscRing: bounded single-producer single-consumer queue that lives in shared memory between two processes.
//
// Roles: exactly one process (one thread of it) pushes and one pops. Either may die at any instruction: an element
// becomes visible by one release store of tail_ after it was written whole, so a producer that dies mid-write published
// nothing. The survivor keeps working; the controller resets the ring before a restarted worker attaches.
//
// Hostile peer: the cursors are in memory that the peer can write. Distances are taken modulo 2^64 and checked against
// the capacity on every call, slots are indexed by mask, and Pop copies the element before anybody looks at it, so bad
// cursors give a corrupt() ring and garbage elements (which the receiver validates), never an access outside slots_.
//
// SYNC POINTS
//   tail_: release in TryPush  <-> acquire in TryPop   (publishes the element)
//   head_: release in TryPop   <-> acquire in TryPush  (returns the slot)
#ifndef ABACUS_SHM_SPSC_RING_H_
#define ABACUS_SHM_SPSC_RING_H_

#include <array>
#include <cstdint>
#include <type_traits>

#include "shm/shm_atomic.h"

namespace abacus {

template <class T, uint64_t kCapacity>
class SpscRing {
  static_assert((kCapacity & (kCapacity - 1)) == 0 && kCapacity > 0, "capacity must be a power of two");
  static_assert(std::is_trivially_copyable_v<T>, "elements are copied byte by byte between processes");

 public:
  static constexpr uint64_t capacity() { return kCapacity; }

  // Producer only. False when full (or the peer corrupted the cursors): nothing was stored.
  bool TryPush(const T& element) {
    const uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - producer_head_ >= kCapacity) {
      producer_head_ = head_.load(std::memory_order_acquire);  // pairs with TryPop's release
      if (tail - producer_head_ >= kCapacity) return false;
    }
    slots_[tail & (kCapacity - 1)] = element;
    tail_.store(tail + 1, std::memory_order_release);  // SYNC POINT: publishes the element
    return true;
  }

  // Consumer only. False when empty (or corrupt).
  bool TryPop(T* out) {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    // Empty (a distance of 0 wraps), or a nonsense cursor; looked at on every call, since the peer can write all four.
    if (consumer_tail_ - head - 1 >= kCapacity) {
      consumer_tail_ = tail_.load(std::memory_order_acquire);  // pairs with TryPush's release
      if (consumer_tail_ - head - 1 >= kCapacity) return false;
    }
    *out = slots_[head & (kCapacity - 1)];
    head_.store(head + 1, std::memory_order_release);  // SYNC POINT: returns the slot
    return true;
  }

  // Anyone; a snapshot that may be stale at once. True when the peer's cursor cannot be right.
  bool corrupt() const { return size() > kCapacity; }
  uint64_t size() const { return tail_.load(std::memory_order_acquire) - head_.load(std::memory_order_acquire); }
  bool empty() const { return size() == 0; }

  // Only while neither side is attached.
  void Reset() {
    head_.store(0, std::memory_order_relaxed);
    consumer_tail_ = 0;
    producer_head_ = 0;
    tail_.store(0, std::memory_order_release);
  }

 private:
  // Producer's line: its cursor and its cached view of the consumer's.
  alignas(kCacheLineBytes) ShmAtomic<uint64_t> tail_{0};
  uint64_t producer_head_ = 0;
  // Consumer's line.
  alignas(kCacheLineBytes) ShmAtomic<uint64_t> head_{0};
  uint64_t consumer_tail_ = 0;
  alignas(kCacheLineBytes) std::array<T, kCapacity> slots_{};
};

}  // namespace abacus

#endif  // ABACUS_SHM_SPSC_RING_H_
