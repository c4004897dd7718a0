#include "base/mailbox.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace abacus {
namespace {

TEST(Mailbox, GivesEverythingOnceInOrder) {
  Mailbox<int> box;
  EXPECT_TRUE(box.empty());
  EXPECT_TRUE(box.Take().empty());
  for (int i = 0; i < 3; ++i) box.Post(i);
  EXPECT_FALSE(box.empty());
  EXPECT_EQ(box.Take(), (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(box.empty());
  EXPECT_TRUE(box.Take().empty());
}

TEST(Mailbox, PassesOwnershipOn) {
  Mailbox<std::unique_ptr<int>> box;
  box.Post(std::make_unique<int>(7));
  const auto items = box.Take();
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(*items[0], 7);
}

TEST(Mailbox, LosesNothingOfManyThreads) {
  constexpr int kThreads = 3, kItems = 20'000;
  struct Item {
    int thread;
    int number;
  };
  Mailbox<Item> box;
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&box, t] {
      for (int i = 0; i < kItems; ++i) box.Post({t, i});
    });
  }
  std::vector<int> next(kThreads, 0);
  int taken = 0;
  while (taken < kThreads * kItems) {
    const std::vector<Item> items = box.Take();
    for (const Item& item : items) {
      ASSERT_EQ(item.number, next[static_cast<size_t>(item.thread)]++) << "in the order of each thread";
    }
    taken += static_cast<int>(items.size());
    if (items.empty()) std::this_thread::yield();
  }
  EXPECT_TRUE(box.empty());
}

}  // namespace
}  // namespace abacus
