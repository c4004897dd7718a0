#include "worker/cuts/cut_points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace abacus {
namespace {

using ::testing::ElementsAre;

TEST(ChooseCutsTest, FewOperatorsAreAllCutsWhateverTheTiming) {
  EXPECT_THAT(ChooseCuts(std::vector<double>{0, 100, 100, 5}, 3), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(ChooseCuts(std::vector<double>{0, 7}, 64), ElementsAre(0, 1));
}

TEST(ChooseCutsTest, CutsAtEqualSharesOfTime) {
  // Operators of 1, 1, 1, 1, 4, 4, 2, 2 units: a quarter of the whole is 4.
  EXPECT_THAT(ChooseCuts(std::vector<double>{0, 1, 2, 3, 4, 8, 12, 14, 16}, 4), ElementsAre(0, 4, 5, 6, 8));
}

TEST(ChooseCutsTest, TakesTheNearestBoundary) {
  // Half of the whole is 5: 4 is nearer than 8, and 6 nearer than 2.
  EXPECT_THAT(ChooseCuts(std::vector<double>{0, 4, 8, 10}, 2), ElementsAre(0, 1, 3));
  EXPECT_THAT(ChooseCuts(std::vector<double>{0, 2, 6, 10}, 2), ElementsAre(0, 2, 3));
}

TEST(ChooseCutsTest, AnOperatorLongerThanItsShareStaysWhole) {
  EXPECT_THAT(ChooseCuts(std::vector<double>{0, 1, 2, 98, 99, 100}, 4), ElementsAre(0, 2, 3, 5));
}

TEST(ChooseCutsTest, NoisyPrefixesAndMissingTimesStillAscend) {
  std::vector<double> noisy(201);
  for (size_t k = 0; k < noisy.size(); ++k) noisy[k] = static_cast<double>(k) + (k % 3 == 0 ? -5 : 5);
  for (const std::vector<double>& cumulative : {noisy, std::vector<double>(201, 0.0)}) {
    const std::vector<uint32_t> cuts = ChooseCuts(cumulative, 64);
    EXPECT_EQ(cuts.front(), 0u);
    EXPECT_EQ(cuts.back(), 200u);
    EXPECT_LE(cuts.size(), 65u);
    EXPECT_GE(cuts.size(), 30u);
    for (size_t i = 1; i < cuts.size(); ++i) EXPECT_LT(cuts[i - 1], cuts[i]);
  }
}

TEST(InterpolateCumulativeTest, SpreadsTimeEvenlyBetweenPositions) {
  const std::vector<uint32_t> positions = {0, 2, 5};
  const std::vector<double> times = {1, 3, 9};
  EXPECT_THAT(InterpolateCumulative(positions, times), ElementsAre(1, 2, 3, 5, 7, 9));
}

}  // namespace
}  // namespace abacus
