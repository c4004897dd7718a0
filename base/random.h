// SplitMix64 (Steele, Lea and Flood, 2014): random numbers that are the same on every machine, unlike those of the
// standard library's distributions. For choices that have to be repeatable, not for secrets.
// Thread rule: pure functions.
#ifndef ABACUS_BASE_RANDOM_H_
#define ABACUS_BASE_RANDOM_H_

#include <cstdint>

namespace abacus {

inline constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15;

// The output for a state; states a kSplitMixStep apart follow each other in one sequence.
inline constexpr uint64_t SplitMix(uint64_t state) {
  state += kSplitMixStep;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
  state = (state ^ (state >> 27)) * 0x94d049bb133111eb;
  return state ^ (state >> 31);
}

// A number in [0, 1) from 64 random bits.
inline constexpr double UnitOf(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

}  // namespace abacus

#endif  // ABACUS_BASE_RANDOM_H_
