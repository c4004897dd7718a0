#include "worker/torch/known_ranges.h"

#include <gtest/gtest.h>

namespace abacus {
namespace {

TEST(KnownRangesTest, TakesWhatWasMeasuredOfTheSameNumberOfOperators) {
  LoadHooks hooks;
  hooks.known = {{10, {0, 4, 10}, 5000}};
  ASSERT_NE(KnownRanges(hooks, 0, 10), nullptr);
  EXPECT_EQ(KnownRanges(hooks, 0, 10)->solo_ns, 5000u);
  EXPECT_EQ(KnownRanges(hooks, 0, 11), nullptr);
  EXPECT_EQ(KnownRanges(hooks, 1, 10), nullptr);
}

TEST(KnownRangesTest, TrustsNothingThatIsNoCuts) {
  LoadHooks hooks;
  for (const std::vector<uint32_t>& cuts :
       {std::vector<uint32_t>{}, {0}, {1, 10}, {0, 9}, {0, 4, 4, 10}, {0, 6, 4, 10}, {0, 11, 10}}) {
    hooks.known = {{10, cuts, 5000}};
    EXPECT_EQ(KnownRanges(hooks, 0, 10), nullptr);
  }
  hooks.known = {{10, {0, 10}, 0}};  // never timed
  EXPECT_EQ(KnownRanges(hooks, 0, 10), nullptr);
  std::vector<uint32_t> many;
  for (uint32_t cut = 0; cut <= kMaxCuts + 1; ++cut) many.push_back(cut);
  hooks.known = {{kMaxCuts + 1, many, 5000}};
  EXPECT_EQ(KnownRanges(hooks, 0, kMaxCuts + 1), nullptr);
}

}  // namespace
}  // namespace abacus
