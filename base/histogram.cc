#include "base/histogram.h"

#include <bit>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr size_t kSubBuckets = 8;  // per power of two

}  // namespace

size_t LatencyBucketOf(uint64_t latency_ns) {
  const uint64_t us = latency_ns / kNsPerUs;
  if (us < kSubBuckets) return static_cast<size_t>(us);
  const int exponent = std::bit_width(us) - 1;  // us in [2^exponent, 2^(exponent+1))
  const uint64_t sub = (us >> (exponent - 3)) & (kSubBuckets - 1);
  const size_t bucket = static_cast<size_t>(exponent - 2) * kSubBuckets + static_cast<size_t>(sub);
  return bucket < kLatencyBuckets ? bucket : kLatencyBuckets - 1;
}

uint64_t LatencyBucketUpperUs(size_t bucket) {
  if (bucket < kSubBuckets) return bucket + 1;
  const size_t exponent = bucket / kSubBuckets + 2;
  const uint64_t sub = bucket % kSubBuckets;
  return (1ull << exponent) + ((sub + 1) << (exponent - 3));
}

}  // namespace abacus
