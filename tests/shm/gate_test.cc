#include "shm/gate.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/clock.h"

namespace abacus {
namespace {

TEST(Gate, IsReachedByItsValueAndLaterOnes) {
  GateWord word;
  Gate gate(&word);
  EXPECT_TRUE(gate.Reached(0));
  EXPECT_FALSE(gate.Reached(1));
  gate.Open(3);
  EXPECT_TRUE(gate.Reached(1));
  EXPECT_TRUE(gate.Reached(3));
  EXPECT_FALSE(gate.Reached(4));
}

TEST(Gate, ComparesCyclically) {
  GateWord word;
  Gate gate(&word);
  gate.Open(UINT32_MAX - 1);
  EXPECT_TRUE(gate.Reached(UINT32_MAX - 1));
  EXPECT_FALSE(gate.Reached(UINT32_MAX));
  EXPECT_FALSE(gate.Reached(1));
  gate.Open(1);
  EXPECT_TRUE(gate.Reached(UINT32_MAX));
  EXPECT_TRUE(gate.Reached(1));
  EXPECT_FALSE(gate.Reached(2));
}

TEST(Gate, TimesOut) {
  GateWord word;
  for (uint64_t spin_ns : {uint64_t{0}, 2 * kNsPerMs, kNsPerSecond}) {
    const uint64_t begin_ns = MonotonicNs();
    EXPECT_FALSE(Gate(&word).Wait(1, 5 * kNsPerMs, spin_ns));
    EXPECT_GE(MonotonicNs() - begin_ns, 5 * kNsPerMs);
  }
  EXPECT_EQ(word.waiting.load(), 0u);
  EXPECT_TRUE(Gate(&word).Wait(0, 0, 0)) << "open already";
}

TEST(Gate, OpensForGood) {
  GateWord word;
  Gate gate(&word);
  gate.Open(UINT32_MAX - 5);
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    gate.OpenForGood();
  });
  EXPECT_TRUE(gate.Wait(7, 10 * kNsPerSecond, 0));
  opener.join();
  for (uint32_t later : {UINT32_MAX - 4, 0u, 1u, 1000u}) EXPECT_TRUE(gate.Reached(later));
}

// Two threads open each other's gate in turn, over the wrap; one lost wake-up costs a whole time limit.
TEST(Gate, PingPongLosesNoWakeUp) {
  GateWord words[2];
  constexpr uint32_t kStart = UINT32_MAX - 1000;
  constexpr uint32_t kRounds = 2000;
  for (GateWord& word : words) Gate(&word).Open(kStart);
  const auto play = [&](int me) {
    Gate mine(&words[me]), other(&words[1 - me]);
    for (uint32_t i = 1; i <= kRounds; ++i) {
      if (me == 0) other.Open(kStart + i);
      EXPECT_TRUE(mine.Wait(kStart + i, 60 * kNsPerSecond, 0));
      if (me == 1) other.Open(kStart + i);
    }
  };
  const uint64_t begin_ns = MonotonicNs();
  std::thread peer(play, 1);
  play(0);
  peer.join();
  EXPECT_LT(MonotonicNs() - begin_ns, 30 * kNsPerSecond);
}

TEST(Gate, WakesEverySleeper) {
  GateWord word;
  Gate gate(&word);
  std::thread first([&] { EXPECT_TRUE(gate.Wait(1, 20 * kNsPerSecond, 0)); });
  std::thread second([&] { EXPECT_TRUE(gate.Wait(2, 20 * kNsPerSecond, 0)); });
  while (word.waiting.load() < 2) std::this_thread::yield();
  const uint64_t begin_ns = MonotonicNs();
  gate.Open(2);
  first.join();
  second.join();
  EXPECT_LT(MonotonicNs() - begin_ns, 10 * kNsPerSecond);
}

}  // namespace
}  // namespace abacus
