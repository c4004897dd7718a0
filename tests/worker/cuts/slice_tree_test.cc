#include "worker/cuts/slice_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <set>
#include <utility>

#include "shm/layout.h"

namespace abacus {
namespace {

// Uneven cuts, so that operators and intervals cannot be mixed up.
std::vector<uint32_t> CutsOf(uint32_t intervals) {
  std::vector<uint32_t> cuts = {0};
  for (uint32_t i = 0; i < intervals; ++i) cuts.push_back(cuts.back() + 2 + i % 3);
  return cuts;
}

TEST(SliceTree, HalvesDownToSingleIntervals) {
  for (uint32_t n = 1; n <= kMaxCuts; ++n) {
    const std::vector<uint32_t> cuts = CutsOf(n);
    const SliceTree tree(cuts);
    const std::vector<SliceTree::Slice>& slices = tree.slices();
    ASSERT_EQ(slices.size(), 2 * n - 1);
    EXPECT_EQ(slices[0].first, 0u);
    EXPECT_EQ(slices[0].last, cuts.back());
    std::set<std::pair<uint32_t, uint32_t>> leaves;
    for (uint32_t i = 0; i < slices.size(); ++i) {
      if (slices[i].left == 0) {
        leaves.emplace(slices[i].first, slices[i].last);
        continue;
      }
      ASSERT_GT(slices[i].left, i);
      ASSERT_GT(slices[i].right, i);
      EXPECT_EQ(slices[slices[i].left].first, slices[i].first);
      EXPECT_EQ(slices[slices[i].left].last, slices[slices[i].right].first);
      EXPECT_EQ(slices[slices[i].right].last, slices[i].last);
    }
    ASSERT_EQ(leaves.size(), n);
    for (uint32_t i = 0; i < n; ++i) EXPECT_TRUE(leaves.contains({cuts[i], cuts[i + 1]}));
  }
}

TEST(SliceTree, EveryRangeIsAShortChain) {
  for (uint32_t n = 1; n <= kMaxCuts; ++n) {
    const std::vector<uint32_t> cuts = CutsOf(n);
    const SliceTree tree(cuts);
    const size_t limit = std::max<size_t>(1, 2 * std::bit_width(n - 1));
    for (uint32_t i = 0; i < n; ++i) {
      for (uint32_t j = i + 1; j <= n; ++j) {
        const std::vector<uint32_t> chain = tree.Chain(cuts[i], cuts[j]);
        ASSERT_FALSE(chain.empty());
        EXPECT_LE(chain.size(), limit) << n << " intervals, [" << i << ", " << j << ")";
        uint32_t next = cuts[i];
        for (uint32_t index : chain) {
          ASSERT_EQ(tree.slices()[index].first, next);
          next = tree.slices()[index].last;
        }
        ASSERT_EQ(next, cuts[j]);
        EXPECT_TRUE(j > i + 1 || chain.size() == 1);
      }
    }
    EXPECT_EQ(tree.Chain(0, cuts.back()), std::vector<uint32_t>{0});
  }
}

TEST(SliceTree, RefusesWhatIsNotBetweenCuts) {
  const SliceTree tree(std::vector<uint32_t>{0, 4, 7, 10});
  EXPECT_TRUE(tree.Chain(0, 5).empty());
  EXPECT_TRUE(tree.Chain(3, 7).empty());
  EXPECT_TRUE(tree.Chain(5, 6).empty());
  EXPECT_TRUE(tree.Chain(4, 4).empty());
  EXPECT_TRUE(tree.Chain(7, 4).empty());
  EXPECT_TRUE(tree.Chain(0, 11).empty());
  EXPECT_TRUE(SliceTree().Chain(0, 1).empty());
}

}  // namespace
}  // namespace abacus
