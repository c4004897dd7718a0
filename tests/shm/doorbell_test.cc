#include "shm/doorbell.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "shm/clock.h"

namespace abacus {
namespace {

TEST(Doorbell, TimesOutWhenNobodyRings) {
  DoorbellWord word;
  Doorbell bell(&word);
  const uint64_t begin_ns = MonotonicNs();
  bell.Wait(bell.Ticket(), 5 * kNsPerMs, 0);
  EXPECT_GE(MonotonicNs() - begin_ns, 4 * kNsPerMs);
}

TEST(Doorbell, SpinningIsPartOfTheTimeLimit) {
  DoorbellWord word;
  Doorbell bell(&word);
  constexpr uint64_t kLimitNs = 20 * kNsPerMs;
  uint64_t shortest_ns = UINT64_MAX;  // a busy machine makes some tries longer
  for (int i = 0; i < 10; ++i) {
    const uint64_t begin_ns = MonotonicNs();
    bell.Wait(bell.Ticket(), kLimitNs, kLimitNs);
    shortest_ns = std::min(shortest_ns, MonotonicNs() - begin_ns);
  }
  EXPECT_GE(shortest_ns, kLimitNs);
  EXPECT_LT(shortest_ns, 2 * kLimitNs);
}

TEST(Doorbell, ARingBeforeTheWaitIsNotMissed) {
  DoorbellWord word;
  Doorbell bell(&word);
  const uint32_t ticket = bell.Ticket();
  bell.Ring();
  const uint64_t begin_ns = MonotonicNs();
  bell.Wait(ticket, 5 * kNsPerSecond, 0);
  EXPECT_LT(MonotonicNs() - begin_ns, kNsPerSecond);
}

// Two threads hand a token to and fro; a lost wake-up would cost a whole time limit per loss.
TEST(Doorbell, PingPongLosesNoWakeUp) {
  DoorbellWord words[2];
  std::atomic<int> token{0};
  constexpr int kRounds = 2000;
  const auto play = [&](int me) {
    Doorbell mine(&words[me]), other(&words[1 - me]);
    for (int i = 0; i < kRounds; ++i) {
      for (;;) {
        const uint32_t ticket = mine.Ticket();
        if (token.load() == 2 * i + me) break;
        mine.Wait(ticket, 2 * kNsPerSecond, 0);
      }
      token.fetch_add(1);
      other.Ring();
    }
  };
  const uint64_t begin_ns = MonotonicNs();
  std::thread peer(play, 1);
  play(0);
  peer.join();
  EXPECT_EQ(token.load(), 2 * kRounds);
  EXPECT_LT(MonotonicNs() - begin_ns, 30 * kNsPerSecond);
}

}  // namespace
}  // namespace abacus
