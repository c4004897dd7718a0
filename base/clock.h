// Time: everything inside Abacus uses one monotonic clock, so a change of the wall clock has no effect anywhere.
//
// CLOCK_MONOTONIC is the same in every process of the machine: times may be compared across the shared segment.
// Policies and queues take `now_ns` as an argument and never read a clock themselves.
#ifndef ABACUS_BASE_CLOCK_H_
#define ABACUS_BASE_CLOCK_H_

#include <time.h>

#include <cstdint>

namespace abacus {

inline uint64_t MonotonicNs() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000ull + static_cast<uint64_t>(ts.tv_nsec);
}

inline constexpr uint64_t kNsPerUs = 1'000;
inline constexpr uint64_t kNsPerMs = 1'000'000;
inline constexpr uint64_t kNsPerSecond = 1'000'000'000;

}  // namespace abacus

#endif  // ABACUS_BASE_CLOCK_H_
