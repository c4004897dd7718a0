// Futex: sleeping on a word of shared memory until another thread or process wakes the sleepers.
//
// The only place that hands words of the segment to the kernel. doorbell.h and gate.h say when to sleep and wake.
// Thread rule: any. Errors: none are reported; a sleep may end early or for no reason, so callers look again.
#ifndef ABACUS_SHM_FUTEX_H_
#define ABACUS_SHM_FUTEX_H_

#include <cstdint>

#include "shm/shm_atomic.h"

namespace abacus {

// Sleeps while `word` is `seen`, at most `timeout_ns` of the monotonic clock. The kernel compares once more, after it
// has noted the sleeper: a word that changed before then does not let it sleep.
void FutexWait(ShmAtomic<uint32_t>* word, uint32_t seen, uint64_t timeout_ns);
void FutexWakeOne(ShmAtomic<uint32_t>* word);
void FutexWakeAll(ShmAtomic<uint32_t>* word);

}  // namespace abacus

#endif  // ABACUS_SHM_FUTEX_H_
