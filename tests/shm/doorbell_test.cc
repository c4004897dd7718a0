#include "shm/doorbell.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/clock.h"

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

// One thread rings for every number that the other waits for, over the real futex, at every distance in time between
// the ticket and the sleep. A wait that runs into its limit is a lost wake-up, since nothing else delays a ring for so
// long; the first one ends the test.
//
// What a lost wake-up takes is a ring after the ticket that neither keeps the waiter from sleeping nor wakes it. Here
// the pauses sweep the ring over the whole of Wait, so this sees every fault that leaves such a ring in the code's
// straight line: `waiting` not set, or cleared long before the sleep; a ring that does not wake, or changes nothing. It
// cannot see a wrong order of two neighbouring accesses: the kernel compares once more after it has noted the sleeper
// and covers for it. wake_order_test.cc can.
TEST(Doorbell, LosesNoWakeUp) {
  constexpr uint64_t kRounds = 20'000;
  constexpr uint64_t kPauses = 128;
  constexpr uint64_t kLimitNs = 10 * kNsPerSecond;
  DoorbellWord word;
  std::atomic<uint64_t> begun{0}, rung{0};
  std::atomic<bool> lost{false};
  const auto pause = [](uint64_t steps) {
    for (uint64_t i = 0; i < steps; ++i) CpuRelax();
  };
  std::thread ringer([&] {
    for (uint64_t i = 1; i <= kRounds; ++i) {
      while (begun.load() < i && !lost.load()) std::this_thread::yield();
      if (lost.load()) return;
      pause(i / kPauses % kPauses);
      rung.store(i);
      Doorbell(&word).Ring();
    }
  });
  Doorbell bell(&word);
  for (uint64_t i = 1; i <= kRounds && !lost.load(); ++i) {
    begun.store(i);
    for (;;) {
      const uint32_t ticket = bell.Ticket();
      if (rung.load() >= i) break;
      pause(i % kPauses);
      const uint64_t begin_ns = MonotonicNs();
      bell.Wait(ticket, kLimitNs, 0);
      if (MonotonicNs() - begin_ns >= kLimitNs / 10 * 9) {
        lost.store(true);
        break;
      }
    }
  }
  ringer.join();
  EXPECT_FALSE(lost.load()) << "a ring did not wake its waiter";
}

// Both threads wait and ring in turn, so each is woken while the other falls asleep.
TEST(Doorbell, PingPongLosesNoWakeUp) {
  constexpr int kRounds = 20'000;
  constexpr uint64_t kLimitNs = 10 * kNsPerSecond;
  DoorbellWord words[2];
  std::atomic<int> token{0};
  std::atomic<bool> lost{false};
  const auto play = [&](int me) {
    Doorbell mine(&words[me]), other(&words[1 - me]);
    for (int i = 0; i < kRounds && !lost.load(); ++i) {
      for (;;) {
        const uint32_t ticket = mine.Ticket();
        if (token.load() == 2 * i + me || lost.load()) break;
        const uint64_t begin_ns = MonotonicNs();
        mine.Wait(ticket, kLimitNs, 0);
        if (MonotonicNs() - begin_ns >= kLimitNs / 10 * 9) lost.store(true);
      }
      token.fetch_add(1);
      other.Ring();
    }
  };
  std::thread peer(play, 1);
  play(0);
  peer.join();
  EXPECT_FALSE(lost.load()) << "a ring did not wake its waiter";
  EXPECT_TRUE(lost.load() || token.load() == 2 * kRounds);
}

}  // namespace
}  // namespace abacus
