#include "controller/intake/query_table.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace abacus {
namespace {

std::vector<uint32_t> Released(QueryTable& table) {
  std::vector<uint32_t> slots;
  table.TakeReleased([&](uint32_t slot) { slots.push_back(slot); });
  return slots;
}

TEST(QueryTable, HandsOutEverySlotOnce) {
  QueryTable table(3);
  std::set<uint32_t> slots;
  for (int i = 0; i < 3; ++i) slots.insert(table.Acquire().value());
  EXPECT_EQ(slots, (std::set<uint32_t>{0, 1, 2}));
  EXPECT_EQ(table.in_use(), 3u);
  EXPECT_FALSE(table.Acquire()) << "none is left";
  table.Return(1);
  EXPECT_EQ(table.in_use(), 2u);
  EXPECT_EQ(table.Acquire(), 1u);
}

TEST(QueryTable, AQueryFindsItsWayBack) {
  QueryTable table(4);
  for (uint32_t i = 0; i < table.capacity(); ++i) {
    EXPECT_EQ(table[i].table, &table);
    EXPECT_EQ(table[i].slot, i);
  }
}

TEST(QueryTable, ASlotIsReleasedWithItsLastFrame) {
  QueryTable table(4);
  table.LendFrames(2, 3);
  table.FrameReleased(2);
  table.FrameReleased(2);
  EXPECT_TRUE(Released(table).empty());
  table.FrameReleased(2);
  EXPECT_EQ(Released(table), std::vector<uint32_t>{2});
  EXPECT_TRUE(Released(table).empty()) << "once";
}

TEST(QueryTable, GivesAllReleasedSlotsAtOnce) {
  QueryTable table(4);
  for (const uint32_t slot : {0u, 3u, 1u}) {
    table.LendFrames(slot, 1);
    table.FrameReleased(slot);
  }
  const std::vector<uint32_t> slots = Released(table);
  EXPECT_EQ(std::set<uint32_t>(slots.begin(), slots.end()), (std::set<uint32_t>{0, 1, 3}));
  EXPECT_EQ(slots.size(), 3u);
}

// See QueryChannel: that many entries of each slot can be on their way at once.
TEST(QueryChannel, HasRoomForEveryQueryWithACancellationAndOneThatIsLate) {
  constexpr uint32_t kSlots = 8;
  QueryChannel channel(kSlots);
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    EXPECT_TRUE(channel.submitted.push(slot | QueryChannel::kCancelBit)) << "of its query before";
    EXPECT_TRUE(channel.submitted.push(slot));
    EXPECT_TRUE(channel.submitted.push(slot | QueryChannel::kCancelBit));
    EXPECT_TRUE(channel.done.push(slot));
  }
  uint32_t entry = 0;
  ASSERT_TRUE(channel.submitted.pop(entry));
  EXPECT_EQ(entry & ~QueryChannel::kCancelBit, 0u);
  EXPECT_NE(entry, 0u);
}

// How the test's threads pass slots on. What orders libzmq's threads is invisible to ThreadSanitizer, so under it the
// table's own order must do.
#ifdef __SANITIZE_THREAD__
constexpr std::memory_order kPass = std::memory_order_relaxed;
#else
constexpr std::memory_order kPass = std::memory_order_seq_cst;
#endif

// Slots on their way to one thread that plays an I/O thread. Never full: it has more places than there are slots.
class Belt {
 public:
  static constexpr uint32_t kStop = UINT32_MAX;
  void Push(uint32_t slot) { places_[pushed_++ % places_.size()].store(slot + 1, kPass); }
  void Stop() { places_[pushed_++ % places_.size()].store(kStop, kPass); }
  // kStop when there will be no more.
  uint32_t Pop() {
    std::atomic<uint32_t>& place = places_[popped_++ % places_.size()];
    uint32_t value = 0;
    while ((value = place.exchange(0, kPass)) == 0) std::this_thread::yield();
    return value == kStop ? kStop : value - 1;
  }

 private:
  std::array<std::atomic<uint32_t>, 64> places_{};
  size_t pushed_ = 0;
  size_t popped_ = 0;
};

// A front end that sends and reclaims while I/O threads release frames. Under ThreadSanitizer it fails when one of the
// table's four orderings (LendFrames, FrameReleased twice, TakeReleased) is missing.
TEST(QueryTable, EverySlotComesBackExactlyOnceFromManyThreads) {
  constexpr uint32_t kSlots = 32;
  constexpr int kReplies = 20'000, kThreads = 3;
  QueryTable table(kSlots);
  std::array<Belt, kThreads> belts;
  std::atomic<int> wrong{0};
  std::vector<std::jthread> threads;
  for (Belt& belt : belts) {
    threads.emplace_back([&table, &belt, &wrong] {
      for (uint32_t slot = belt.Pop(); slot != Belt::kStop; slot = belt.Pop()) {
        // As the callback of a frame: first see what the front end wrote, then let go of it.
        table[slot].frames_out.load(std::memory_order_acquire);
        if (table[slot].header != std::to_string(table[slot].id)) wrong.fetch_add(1);
        table.FrameReleased(slot);
      }
    });
  }
  std::vector<bool> out(kSlots, false);
  int sent = 0, back = 0;
  while (back < kReplies) {
    table.TakeReleased([&](uint32_t slot) {
      if (!out[slot]) wrong.fetch_add(1);
      out[slot] = false;
      table.Return(slot);
      ++back;
    });
    const auto slot = sent < kReplies ? table.Acquire() : std::nullopt;
    if (!slot) {
      std::this_thread::yield();
      continue;
    }
    out[*slot] = true;
    table[*slot].id = static_cast<uint64_t>(sent);
    table[*slot].header = std::to_string(sent);
    const int frames = 1 + sent % kThreads;
    table.LendFrames(*slot, static_cast<uint32_t>(frames) + 1);
    for (int i = 0; i < frames; ++i) belts[static_cast<size_t>((sent + i) % kThreads)].Push(*slot);
    table.FrameReleased(*slot);
    ++sent;
  }
  for (Belt& belt : belts) belt.Stop();
  threads.clear();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(back, kReplies);
  EXPECT_EQ(table.in_use(), 0u);
  EXPECT_TRUE(Released(table).empty());
}

}  // namespace
}  // namespace abacus
