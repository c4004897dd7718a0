#include "shm/spsc_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace abacus {
namespace {

struct Element {
  uint64_t a = 0, b = 0;
};
using Ring = SpscRing<Element, 8>;

TEST(SpscRing, GivesElementsInOrder) {
  Ring ring;
  for (uint64_t round = 0; round < 100; ++round) {
    for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(ring.TryPush({round, i}));
    for (uint64_t i = 0; i < 5; ++i) {
      Element e;
      ASSERT_TRUE(ring.TryPop(&e));
      EXPECT_EQ(e.a, round);
      EXPECT_EQ(e.b, i);
    }
    Element e;
    EXPECT_FALSE(ring.TryPop(&e));
  }
}

TEST(SpscRing, RefusesWhenFullAndStoresNothing) {
  Ring ring;
  for (uint64_t i = 0; i < ring.capacity(); ++i) ASSERT_TRUE(ring.TryPush({i, 0}));
  EXPECT_FALSE(ring.TryPush({99, 99}));
  Element e;
  for (uint64_t i = 0; i < ring.capacity(); ++i) {
    ASSERT_TRUE(ring.TryPop(&e));
    EXPECT_EQ(e.a, i);
  }
  EXPECT_FALSE(ring.TryPop(&e));
}

// A producer that died between writing the slot and publishing the cursor: nothing may be visible.
TEST(SpscRing, ElementOfADeadProducerStaysInvisible) {
  Ring ring;
  ASSERT_TRUE(ring.TryPush({1, 1}));
  // The slots are the last member; write the next one by hand without publishing it.
  auto* slots = reinterpret_cast<Element*>(reinterpret_cast<std::byte*>(&ring) + sizeof(Ring) - 8 * sizeof(Element));
  slots[1] = {2, 2};
  Element e;
  ASSERT_TRUE(ring.TryPop(&e));
  EXPECT_EQ(e.a, 1u);
  EXPECT_FALSE(ring.TryPop(&e));
  ring.Reset();
  ASSERT_TRUE(ring.TryPush({3, 3}));
  ASSERT_TRUE(ring.TryPop(&e));
  EXPECT_EQ(e.a, 3u);
}

// What a hostile peer can write, by offset (shm/README.md): its own cursor, ours, and both sides' notes of the other's.
constexpr size_t kTailAt = 0;
constexpr size_t kProducerHeadAt = 8;
constexpr size_t kHeadAt = 64;
constexpr size_t kConsumerTailAt = 72;
constexpr size_t kSlotsAt = 128;
static_assert(sizeof(Ring) == kSlotsAt + Ring::capacity() * sizeof(Element));

// An element that says of itself that it came out of a slot: no cursor and no guard byte looks like it.
constexpr uint64_t kMark = 0xC0FFEE00;
Element Marked(uint64_t number) { return {kMark << 32 | number, ~(kMark << 32 | number)}; }
bool IsMarked(const Element& e) { return e.a >> 32 == kMark && e.b == ~e.a; }

// A ring in use, with three elements in it, between guard bytes.
class GuardedRing {
 public:
  GuardedRing() {
    before_.fill(kGuard);
    after_.fill(kGuard);
    Element e;
    for (uint64_t i = 0; i < kPopped; ++i) {
      ring_.TryPush(Marked(i));
      ring_.TryPop(&e);
    }
    for (uint64_t i = kPopped; i < kPushed; ++i) ring_.TryPush(Marked(i));
  }
  Ring& ring() { return ring_; }
  struct Cursors {
    uint64_t tail, head, producer_head, consumer_tail;
  };
  Cursors Read() { return {Load(kTailAt), Load(kHeadAt), Load(kProducerHeadAt), Load(kConsumerTailAt)}; }
  void Corrupt(const Cursors& cursors) {
    Store(kTailAt, cursors.tail);
    Store(kHeadAt, cursors.head);
    Store(kProducerHeadAt, cursors.producer_head);
    Store(kConsumerTailAt, cursors.consumer_tail);
  }
  // tail_ or head_, for a thread that plays the peer.
  ShmAtomic<uint64_t>& Cursor(size_t offset) { return *reinterpret_cast<ShmAtomic<uint64_t>*>(Bytes() + offset); }
  std::vector<std::byte> Copy(size_t begin, size_t end) { return {Bytes() + begin, Bytes() + end}; }
  bool GuardsAreIntact() const {
    const auto intact = [](std::byte byte) { return byte == kGuard; };
    return std::all_of(before_.begin(), before_.end(), intact) && std::all_of(after_.begin(), after_.end(), intact);
  }

  static constexpr uint64_t kPopped = 20;
  static constexpr uint64_t kPushed = 23;

 private:
  std::byte* Bytes() { return reinterpret_cast<std::byte*>(&ring_); }
  uint64_t Load(size_t offset) {
    uint64_t value = 0;
    std::memcpy(&value, Bytes() + offset, sizeof(value));
    return value;
  }
  void Store(size_t offset, uint64_t value) { std::memcpy(Bytes() + offset, &value, sizeof(value)); }

  static constexpr std::byte kGuard{0xA5};
  std::array<std::byte, 256> before_;
  Ring ring_;
  std::array<std::byte, 256> after_;
};

// Each side may use what its note and then the cursor itself allow, a ring full each, and has to stop there.
constexpr uint64_t kMostCalls = 2 * Ring::capacity();

void PopAll(GuardedRing& guarded) {
  const std::vector<std::byte> producers_line = guarded.Copy(kTailAt, kHeadAt);
  const std::vector<std::byte> slots = guarded.Copy(kSlotsAt, sizeof(Ring));
  Element e;
  uint64_t popped = 0;
  while (popped <= kMostCalls && guarded.ring().TryPop(&e)) {
    ASSERT_TRUE(IsMarked(e)) << "an element from outside the slots";
    ++popped;
  }
  ASSERT_LE(popped, kMostCalls) << "a consumer that takes all there is would not come back";
  ASSERT_EQ(guarded.Copy(kTailAt, kHeadAt), producers_line) << "not the consumer's to write";
  ASSERT_EQ(guarded.Copy(kSlotsAt, sizeof(Ring)), slots) << "not the consumer's to write";
}

void PushAll(GuardedRing& guarded) {
  const std::vector<std::byte> consumers_line = guarded.Copy(kHeadAt, kSlotsAt);
  uint64_t pushed = 0;
  while (pushed <= kMostCalls && guarded.ring().TryPush(Marked(1000 + pushed))) ++pushed;
  ASSERT_LE(pushed, kMostCalls) << "a producer that fills the ring would not come back";
  ASSERT_EQ(guarded.Copy(kHeadAt, kSlotsAt), consumers_line) << "not the producer's to write";
}

// Every cursor and every note set to something wrong, in every combination: calls stay inside the slots and come to an
// end, and a reset repairs the ring.
TEST(SpscRing, SurvivesHostileCursors) {
  const auto wrong = [](uint64_t right) {
    std::vector<uint64_t> values = {right, 0, UINT64_MAX, uint64_t{1} << 63};
    for (const uint64_t distance : {uint64_t{1}, uint64_t{8}, uint64_t{9}, uint64_t{1000}, uint64_t{1} << 40}) {
      values.push_back(right + distance);
      values.push_back(right - distance);
    }
    return values;
  };
  const GuardedRing::Cursors right = GuardedRing().Read();
  for (const uint64_t tail : wrong(right.tail)) {
    for (const uint64_t head : wrong(right.head)) {
      for (const uint64_t producer_head : wrong(right.producer_head)) {
        for (const uint64_t consumer_tail : wrong(right.consumer_tail)) {
          SCOPED_TRACE(testing::Message() << "tail_ " << tail << ", head_ " << head << ", producer_head_ "
                                          << producer_head << ", consumer_tail_ " << consumer_tail);
          for (const auto& use_all : {PopAll, PushAll}) {
            GuardedRing guarded;
            guarded.Corrupt({tail, head, producer_head, consumer_tail});
            use_all(guarded);
            ASSERT_FALSE(HasFatalFailure());
            ASSERT_TRUE(guarded.GuardsAreIntact());
            guarded.ring().Reset();
            ASSERT_TRUE(guarded.ring().TryPush(Marked(77)));
            Element e;
            ASSERT_TRUE(guarded.ring().TryPop(&e));
            ASSERT_EQ(e.a, Marked(77).a);
          }
        }
      }
    }
  }
}

// The same while a peer keeps moving both cursors.
TEST(SpscRing, SurvivesCursorsThatMove) {
  GuardedRing guarded;
  const std::jthread peer([&](const std::stop_token& stop) {
    std::mt19937_64 random(1);
    while (!stop.stop_requested()) {
      const uint64_t near = GuardedRing::kPopped + random() % 32;
      guarded.Cursor(random() % 2 == 0 ? kTailAt : kHeadAt).store(random() % 4 == 0 ? random() : near);
    }
  });
  for (uint64_t i = 0; i < 200'000; ++i) {
    Element e = Marked(0);
    guarded.ring().TryPush(Marked(i));
    guarded.ring().TryPop(&e);
    ASSERT_TRUE(IsMarked(e)) << "an element from outside the slots";
  }
  EXPECT_TRUE(guarded.GuardsAreIntact());
}

TEST(SpscRing, TwoThreadsSeeEveryElementWhole) {
  auto ring = std::make_unique<SpscRing<Element, 64>>();
  constexpr uint64_t kCount = 200'000;
  std::thread producer([&] {
    for (uint64_t i = 0; i < kCount;) {
      if (ring->TryPush({i, ~i})) {
        ++i;
      } else {
        std::this_thread::yield();
      }
    }
  });
  for (uint64_t i = 0; i < kCount;) {
    Element e;
    if (!ring->TryPop(&e)) {
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(e.a, i);
    ASSERT_EQ(e.b, ~i);
    ++i;
  }
  producer.join();
}

}  // namespace
}  // namespace abacus
