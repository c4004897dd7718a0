// Log-linear histogram of latencies: 8 buckets per power of two of microseconds, so a quantile is exact to 12.5 %.
// Thread rule: pure functions; the counters belong to whoever keeps them.
#ifndef ABACUS_BASE_HISTOGRAM_H_
#define ABACUS_BASE_HISTOGRAM_H_

#include <cstddef>
#include <cstdint>

namespace abacus {

inline constexpr size_t kLatencyBuckets = 256;

// The bucket that counts this latency; very long ones share the last.
size_t LatencyBucketOf(uint64_t latency_ns);
// Upper edge of a bucket, in microseconds.
uint64_t LatencyBucketUpperUs(size_t bucket);

}  // namespace abacus

#endif  // ABACUS_BASE_HISTOGRAM_H_
