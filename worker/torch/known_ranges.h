// What an earlier process measured of a bucket, and what is put in its place where nothing is measured.
//
// Thread rule: pure functions.
#ifndef ABACUS_WORKER_TORCH_KNOWN_RANGES_H_
#define ABACUS_WORKER_TORCH_KNOWN_RANGES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "shm/layout.h"
#include "worker/runtime/model_runtime.h"

namespace abacus {

// What is known of a bucket with this many operators; nullptr where it has to be measured. What comes from another
// process is not trusted to be cut points.
inline const BucketRanges* KnownRanges(const LoadHooks& hooks, size_t bucket, uint32_t operators) {
  if (bucket >= hooks.known.size()) return nullptr;
  const BucketRanges& known = hooks.known[bucket];
  const bool usable = known.operators == operators && known.solo_ns > 0 && known.cuts.size() >= 2 &&
                      known.cuts.size() <= kMaxCuts + 1 && known.cuts.front() == 0 && known.cuts.back() == operators &&
                      std::ranges::adjacent_find(known.cuts, std::greater_equal<>()) == known.cuts.end();
  return usable ? &known : nullptr;
}

// Of a bucket that nobody will cut.
inline BucketRanges UncutRanges(uint32_t operators) { return {operators, {0, operators}, 0}; }

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_KNOWN_RANGES_H_
