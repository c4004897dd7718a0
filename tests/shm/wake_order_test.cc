// The orderings that doorbells and gates rest on, without the kernel, which would cover for most mistakes in them.
//
// A ringer writes `value` and then reads `waiting`; a waiter writes `waiting` and then reads `value` (Dekker). At least
// one of them must see the other: a waiter that goes to sleep because it saw the old value, beside a ringer that wakes
// nobody because it saw nobody waiting, is a lost wake-up. FUTEX_WAIT reads `value` again, hundreds of nanoseconds
// after the waiter's own check and behind full barriers, so on the real futex a wrong order loses nothing until a
// process is interrupted at the wrong instruction. This program has a futex of its own, which takes the waiter's word
// for it: it notes that the waiter slept and that the ringer woke. Two threads then meet in the critical few
// instructions, round after round, and a round in which one slept and nobody woke it is a failure.
//
// Faults that this finds, each planted alone: Ring reads `waiting` before it changes `value`; Wait reads `value` before
// it sets `waiting`; `waiting` not set at all, or cleared before the sleep. A write that is an ordinary store (even x86
// lets a later load pass one, so that both sides read the old state) is found only where two cores happen to do that
// within the few instructions; no run can promise it. Proof of the right order: say the waiter slept, so its read of
// `value` came before the change in the single order of all four accesses. Its write of `waiting` came before that
// read, and the ringer's read after the change, so the ringer saw it and woke. Every fault above takes away one of
// those "before".
//
// Nothing depends on time: a right program passes on any machine, however slow; on one core the threads seldom meet.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "base/clock.h"
#include "shm/doorbell.h"
#include "shm/futex.h"
#include "shm/gate.h"

namespace abacus {
namespace {

std::atomic<bool> wake_returned{false};  // the ringer is through with this round
std::atomic<bool> woke{false};
bool slept = false;  // of the waiter's thread

}  // namespace

// In place of shm/futex.cc.
void FutexWait(ShmAtomic<uint32_t>* /*word*/, uint32_t /*seen*/, uint64_t /*timeout_ns*/) {
  slept = true;
  while (!wake_returned.load(std::memory_order_acquire)) std::this_thread::yield();
}
void FutexWakeOne(ShmAtomic<uint32_t>* /*word*/) { woke.store(true, std::memory_order_relaxed); }
void FutexWakeAll(ShmAtomic<uint32_t>* word) { FutexWakeOne(word); }

namespace {

constexpr uint32_t kRounds = 200'000;
constexpr uint64_t kEnoughNs = 5 * kNsPerSecond;  // for machines on which the threads take turns

// A nanosecond or less a step.
void Delay(uint32_t steps) {
  for (uint32_t i = 0; i < steps; ++i) asm volatile("" ::: "memory");
}

struct Outcome {
  uint32_t rounds = 0;
  uint32_t sleeps = 0;
  uint32_t lost = 0;
};

// Plays rounds of one `wait` against one `wake`, both of which get the round's number. Both threads hold the word in
// their caches when they begin, and the delays sweep their meeting over some hundred nanoseconds either way.
Outcome Race(const std::function<uint32_t()>& look, const std::function<void(uint32_t round, uint32_t seen)>& wait,
             const std::function<void(uint32_t round)>& wake) {
  constexpr uint32_t kSweep = 512;
  std::atomic<uint32_t> round{0};
  std::atomic<bool> over{false};
  std::thread waker([&] {
    for (uint32_t i = 1;; ++i) {
      for (uint32_t spins = 0; round.load(std::memory_order_acquire) != i; ++spins) {
        if (over.load(std::memory_order_relaxed)) return;
        if (spins > 10'000) std::this_thread::yield();
      }
      look();
      Delay(i / kSweep % 16 * (kSweep / 16));
      wake(i);
      wake_returned.store(true, std::memory_order_release);
    }
  });
  Outcome outcome;
  const uint64_t begin_ns = MonotonicNs();
  for (uint32_t i = 1; i <= kRounds && MonotonicNs() - begin_ns < kEnoughNs; ++i) {
    slept = false;
    woke.store(false, std::memory_order_relaxed);
    wake_returned.store(false, std::memory_order_relaxed);
    const uint32_t seen = look();
    round.store(i, std::memory_order_release);
    Delay(i % kSweep);
    wait(i, seen);
    for (uint32_t spins = 0; !wake_returned.load(std::memory_order_acquire); ++spins) {
      if (spins > 10'000) std::this_thread::yield();
    }
    ++outcome.rounds;
    if (slept) ++outcome.sleeps;
    if (slept && !woke.load(std::memory_order_relaxed)) ++outcome.lost;
  }
  over.store(true, std::memory_order_relaxed);
  waker.join();
  return outcome;
}

TEST(WakeOrder, ARingIsSeenOrSeesTheWaiter) {
  DoorbellWord word;
  Doorbell bell(&word);
  const Outcome outcome =
      Race([&] { return bell.Ticket(); }, [&](uint32_t, uint32_t ticket) { bell.Wait(ticket, kNsPerSecond, 0); },
           [&](uint32_t) { Doorbell(&word).Ring(); });
  EXPECT_EQ(outcome.lost, 0u) << "of " << outcome.rounds << " rounds, with " << outcome.sleeps << " sleeps";
  EXPECT_GT(outcome.sleeps, 0u) << "nothing was tried";
}

TEST(WakeOrder, AnOpeningIsSeenOrSeesTheSleeper) {
  GateWord word;
  Gate gate(&word);
  const Outcome outcome = Race([&] { return gate.value(); },
                               [&](uint32_t round, uint32_t) { EXPECT_TRUE(gate.Wait(round, UINT64_MAX, 0)); },
                               [&](uint32_t round) { Gate(&word).Open(round); });
  EXPECT_EQ(outcome.lost, 0u) << "of " << outcome.rounds << " rounds, with " << outcome.sleeps << " sleeps";
  EXPECT_GT(outcome.sleeps, 0u) << "nothing was tried";
}

}  // namespace
}  // namespace abacus
