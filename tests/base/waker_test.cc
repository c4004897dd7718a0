#include "base/waker.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace abacus {
namespace {

constexpr int kPatienceMs = 30'000;

// Whether the sleeper would wake up within the time.
bool Sleep(const Waker& waker, int timeout_ms) {
  pollfd item{waker.fd(), POLLIN, 0};
  return poll(&item, 1, timeout_ms) == 1;
}

TEST(Waker, CostsNothingWhileNobodySleeps) {
  Waker waker;
  waker.Wake();
  EXPECT_FALSE(Sleep(waker, 0)) << "nothing was written";
  waker.PrepareSleep();
  EXPECT_FALSE(Sleep(waker, 0)) << "what came before is found by the last look at the queues";
  waker.FinishSleep();
  waker.Wake();
  EXPECT_FALSE(Sleep(waker, 0));
}

TEST(Waker, AWakeBetweenTheLastLookAndThePollEndsThePoll) {
  Waker waker;
  waker.PrepareSleep();
  waker.Wake();
  EXPECT_TRUE(Sleep(waker, kPatienceMs));
  waker.FinishSleep();
  EXPECT_FALSE(Sleep(waker, 0)) << "one wake-up, one time awake";
}

TEST(Waker, SeveralWakesAreOne) {
  Waker waker;
  waker.PrepareSleep();
  for (int i = 0; i < 3; ++i) waker.Wake();
  uint64_t count = 0;
  ASSERT_EQ(read(waker.fd(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 1u) << "only the first one writes";
  waker.FinishSleep();
}

TEST(Waker, WakesASleeper) {
  Waker waker;
  std::jthread other([&waker] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (int i = 0; i < 100; ++i) waker.Wake();
  });
  waker.PrepareSleep();
  EXPECT_TRUE(Sleep(waker, kPatienceMs));
  waker.FinishSleep();
}

// Every item is pushed the moment the one before was taken, so the push falls into all phases of falling asleep.
// Nothing but the waker ends a sleep: a lost wake-up costs the full patience and fails.
TEST(Waker, LosesNoWakeUp) {
  constexpr uint64_t kItems = 20'000;
  Waker waker;
  std::atomic<uint64_t> pushed{0}, taken{0};
  std::jthread producer([&] {
    for (uint64_t i = 1; i <= kItems; ++i) {
      while (taken.load(std::memory_order_relaxed) != i - 1) std::this_thread::yield();
      for (uint64_t n = 0; n < i % 200; ++n) std::atomic_signal_fence(std::memory_order_seq_cst);  // a short while
      pushed.store(i, std::memory_order_relaxed);
      waker.Wake();
    }
  });
  uint64_t seen = 0;
  bool lost = false;
  while (seen < kItems) {
    if (const uint64_t now = pushed.load(std::memory_order_relaxed); now != seen) {
      seen = now;
      taken.store(now, std::memory_order_relaxed);
      continue;
    }
    waker.PrepareSleep();
    if (pushed.load(std::memory_order_relaxed) == seen) lost |= !Sleep(waker, lost ? 0 : kPatienceMs);
    waker.FinishSleep();
  }
  EXPECT_FALSE(lost);
}

}  // namespace
}  // namespace abacus
