#include "shm/spsc_ring.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>

#include "shm/doorbell.h"

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
  auto* slots = reinterpret_cast<Element*>(reinterpret_cast<char*>(&ring) + sizeof(Ring) - 8 * sizeof(Element));
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

// A peer may write anything into the cursors: calls stay inside the slots and come back.
TEST(SpscRing, SurvivesHostileCursors) {
  for (const uint64_t value : {uint64_t{1} << 63, UINT64_MAX, uint64_t{9}, uint64_t{1000}}) {
    auto ring = std::make_unique<Ring>();
    auto* tail = reinterpret_cast<uint64_t*>(ring.get());
    *tail = value;
    Element e;
    int popped = 0;
    while (popped < 100 && ring->TryPop(&e)) ++popped;
    EXPECT_LE(popped, 8) << value;
    ring->TryPush({1, 1});
  }
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
