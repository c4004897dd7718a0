#include "worker/lru_cache.h"

#include <gtest/gtest.h>

#include <memory>

namespace abacus {
namespace {

TEST(LruCacheTest, DropsTheLeastRecentlyUsedEntry) {
  LruCache<int, std::unique_ptr<int>> cache(2);
  cache.Insert(1, std::make_unique<int>(10));
  cache.Insert(2, std::make_unique<int>(20));
  ASSERT_NE(cache.Find(1), nullptr);  // 2 is now the oldest
  EXPECT_EQ(**cache.Insert(3, std::make_unique<int>(30)), 30);
  EXPECT_EQ(cache.Find(2), nullptr);
  ASSERT_NE(cache.Find(1), nullptr);
  EXPECT_EQ(**cache.Find(1), 10);
  EXPECT_EQ(cache.size(), 2u);
}

TEST(LruCacheTest, CapacityZeroHoldsOneEntry) {
  LruCache<int, int> cache(0);
  cache.Insert(1, 10);
  EXPECT_EQ(*cache.Insert(2, 20), 20);
  EXPECT_EQ(cache.Find(1), nullptr);
  EXPECT_EQ(cache.size(), 1u);
}

}  // namespace
}  // namespace abacus
