#include "controller/intake/tensor_arena.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace abacus {
namespace {

TEST(TensorArena, RoundsUpAndAligns) {
  TensorArena arena(1 << 20);
  const auto a = arena.Allocate(1);
  const auto b = arena.Allocate(5000);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->bytes, 4096u);
  EXPECT_EQ(b->bytes, 8192u);
  EXPECT_EQ(b->offset_bytes % 8192, 0u);
  EXPECT_EQ(arena.used_bytes(), 4096u + 8192u);
}

TEST(TensorArena, RefusesWhatDoesNotFit) {
  TensorArena arena(1 << 20);
  EXPECT_FALSE(arena.Allocate((1 << 20) + 1));
  EXPECT_FALSE(arena.Allocate(UINT64_MAX));
  ASSERT_TRUE(arena.Allocate(1 << 20));
  EXPECT_FALSE(arena.Allocate(1));
}

TEST(TensorArena, UsesAnArenaThatIsNoPowerOfTwo) {
  TensorArena arena(3 * 4096 + 100);
  EXPECT_EQ(arena.max_block_bytes(), 8192u);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(arena.Allocate(4096)) << i;
  EXPECT_FALSE(arena.Allocate(1));
}

TEST(TensorArena, EmptyArenaServesNothing) {
  TensorArena arena(0);
  EXPECT_FALSE(arena.Allocate(1));
}

// Random allocation and release: blocks never overlap, stay inside, and everything merges back in the end.
TEST(TensorArena, BlocksNeverOverlapAndMergeBack) {
  constexpr uint64_t kBytes = 8 << 20;
  TensorArena arena(kBytes);
  std::mt19937_64 random(7);
  std::map<uint64_t, TensorArena::Block> live;
  for (int i = 0; i < 20'000; ++i) {
    if (live.empty() || random() % 2 == 0) {
      const auto block = arena.Allocate(1 + random() % 200'000);
      if (!block) continue;
      ASSERT_LE(block->offset_bytes + block->bytes, kBytes);
      const auto next = live.lower_bound(block->offset_bytes);
      if (next != live.end()) {
        ASSERT_LE(block->offset_bytes + block->bytes, next->first);
      }
      if (next != live.begin()) {
        const auto& before = std::prev(next)->second;
        ASSERT_LE(before.offset_bytes + before.bytes, block->offset_bytes);
      }
      live[block->offset_bytes] = *block;
    } else {
      auto it = std::next(live.begin(), static_cast<long>(random() % live.size()));
      arena.Free(it->second);
      live.erase(it);
    }
  }
  for (const auto& [offset, block] : live) arena.Free(block);
  EXPECT_EQ(arena.used_bytes(), 0u);
  EXPECT_TRUE(arena.Allocate(kBytes)) << "free neighbours must have merged";
}

}  // namespace
}  // namespace abacus
