// The one atomic type for shared memory: always lock-free, so it works between processes and a dead process can never
// leave it locked. A check in .ci/run keeps raw std::atomic out of shm/layout.h.
#ifndef ABACUS_SHM_SHM_ATOMIC_H_
#define ABACUS_SHM_SHM_ATOMIC_H_

#include <atomic>
#include <cstdint>

namespace abacus {

inline constexpr size_t kCacheLineBytes = 64;

template <class T>
class ShmAtomic : public std::atomic<T> {
 public:
  using std::atomic<T>::atomic;
  static_assert(std::atomic<T>::is_always_lock_free, "shared memory needs lock-free atomics");
};

// Single-writer increment: cheaper than a locked add, correct because only the owning process writes the counter.
template <class T>
inline void BumpOwned(ShmAtomic<T>& counter, T amount = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

}  // namespace abacus

#endif  // ABACUS_SHM_SHM_ATOMIC_H_
