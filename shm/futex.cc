#include "shm/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

#include "base/clock.h"

namespace abacus {
namespace {

// The kernel works on the raw 32-bit word.
uint32_t* RawWord(ShmAtomic<uint32_t>* word) {
  static_assert(sizeof(*word) == sizeof(uint32_t) && alignof(ShmAtomic<uint32_t>) == alignof(uint32_t));
  return reinterpret_cast<uint32_t*>(word);
}

void Wake(ShmAtomic<uint32_t>* word, int sleepers) {
  syscall(SYS_futex, RawWord(word), FUTEX_WAKE, sleepers, nullptr, nullptr, 0);
}

}  // namespace

void FutexWait(ShmAtomic<uint32_t>* word, uint32_t seen, uint64_t timeout_ns) {
  // FUTEX_WAIT counts a relative timeout on the monotonic clock.
  timespec timeout{static_cast<time_t>(timeout_ns / kNsPerSecond), static_cast<long>(timeout_ns % kNsPerSecond)};
  syscall(SYS_futex, RawWord(word), FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void FutexWakeOne(ShmAtomic<uint32_t>* word) { Wake(word, 1); }

void FutexWakeAll(ShmAtomic<uint32_t>* word) { Wake(word, INT_MAX); }

}  // namespace abacus
