#include "base/histogram.h"

#include <gtest/gtest.h>

#include "base/clock.h"

namespace abacus {
namespace {

TEST(LatencyHistogram, BucketsAreContiguousAndAscending) {
  for (size_t b = 0; b + 1 < kLatencyBuckets; ++b) {
    EXPECT_LT(LatencyBucketUpperUs(b), LatencyBucketUpperUs(b + 1));
    // The upper edge is the first value of the next bucket.
    EXPECT_EQ(LatencyBucketOf(LatencyBucketUpperUs(b) * kNsPerUs), b + 1);
    EXPECT_EQ(LatencyBucketOf(LatencyBucketUpperUs(b) * kNsPerUs - 1), b);
  }
}

TEST(LatencyHistogram, ErrorIsAtMostAnEighth) {
  for (uint64_t us = 8; us < 100'000'000; us = us * 5 / 4 + 1) {
    const uint64_t upper = LatencyBucketUpperUs(LatencyBucketOf(us * kNsPerUs));
    EXPECT_GT(upper, us);
    EXPECT_LE(static_cast<double>(upper), static_cast<double>(us) * 1.126 + 1);
  }
}

TEST(LatencyHistogram, HugeValuesStayInTheLastBucket) { EXPECT_EQ(LatencyBucketOf(UINT64_MAX), kLatencyBuckets - 1); }

}  // namespace
}  // namespace abacus
