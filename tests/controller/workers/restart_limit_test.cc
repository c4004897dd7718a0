#include "controller/workers/restart_limit.h"

#include <gtest/gtest.h>

namespace abacus {
namespace {

constexpr uint64_t kStartNs = 1000 * kNsPerSecond;

TEST(RestartLimit, LetsSoManyThroughAtOnce) {
  RestartLimit limit;
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(limit.Next(kStartNs + i, 3), kStartNs + i);
  EXPECT_EQ(limit.recent(), 3u);
}

TEST(RestartLimit, TheNextOneWaitsUntilTheOldestIsAMinuteAgo) {
  RestartLimit limit;
  limit.Next(kStartNs, 2);
  limit.Next(kStartNs + 10 * kNsPerSecond, 2);
  EXPECT_EQ(limit.Next(kStartNs + 11 * kNsPerSecond, 2), kStartNs + RestartLimit::kWindowNs);
  EXPECT_EQ(limit.recent(), 3u) << "what a person is told";
  // It ends again as soon as it was started: now the second one counts.
  EXPECT_EQ(limit.Next(kStartNs + RestartLimit::kWindowNs + 1, 2),
            kStartNs + 10 * kNsPerSecond + RestartLimit::kWindowNs);
}

TEST(RestartLimit, ForgetsWhatIsLongerAgoThanAMinute) {
  RestartLimit limit;
  for (uint64_t i = 0; i < 100; ++i) {
    const uint64_t now_ns = kStartNs + i * (RestartLimit::kWindowNs + 1);
    EXPECT_EQ(limit.Next(now_ns, 1), now_ns);
    EXPECT_EQ(limit.recent(), 1u);
  }
}

}  // namespace
}  // namespace abacus
