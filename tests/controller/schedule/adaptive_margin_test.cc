#include "controller/schedule/adaptive_margin.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace abacus {
namespace {

constexpr uint64_t kPredictedNs = 1'000'000;

// `error` is a share of the prediction and the margin's base.
uint64_t Actual(double error) {
  return kPredictedNs + static_cast<uint64_t>(std::llround(error * (kPredictedNs + AdaptiveMargin::kBaseNs)));
}

// The share of `rounds` with normal errors of `deviation` that exceed the margin.
double ShareOver(AdaptiveMargin* margin, std::mt19937* random, double deviation, int rounds) {
  std::normal_distribution<double> error(0, deviation);
  int over = 0;
  for (int i = 0; i < rounds; ++i) over += margin->Record(kPredictedNs, Actual(error(*random)), margin->share());
  return static_cast<double>(over) / rounds;
}

TEST(AdaptiveMargin, SettlesWhereHalfAPercentOfTheRoundsExceedIt) {
  for (const double start : {0.02, 0.1, 0.5}) {
    AdaptiveMargin margin(start);
    std::mt19937 random(1);
    ShareOver(&margin, &random, 0.04, 5000);
    EXPECT_NEAR(margin.share(), 2.576 * 0.04, 0.03) << "near the 99.5 % quantile";
    EXPECT_NEAR(ShareOver(&margin, &random, 0.04, 50'000), AdaptiveMargin::kTargetOver, 0.001);
    EXPECT_NEAR(margin.error(), 1.2 * 0.04 * std::sqrt(2 / M_PI), 0.007)
        << "the mean of |error|, a share of the prediction";
  }
}

TEST(AdaptiveMargin, FollowsADrift) {
  AdaptiveMargin margin(0.1);
  std::mt19937 random(2);
  ShareOver(&margin, &random, 0.03, 20'000);
  // Every round takes 20 % longer from now on.
  std::normal_distribution<double> error(0.2, 0.03);
  for (int i = 0; i < 300; ++i) margin.Record(kPredictedNs, Actual(error(random)), margin.share());
  EXPECT_GT(margin.share(), 0.2);
  int over = 0;
  for (int i = 0; i < 20'000; ++i) over += margin.Record(kPredictedNs, Actual(error(random)), margin.share());
  EXPECT_NEAR(over / 20'000.0, AdaptiveMargin::kTargetOver, 0.0015);
  // And back.
  ShareOver(&margin, &random, 0.03, 5000);
  EXPECT_LT(margin.share(), 0.15);
}

TEST(AdaptiveMargin, StaysWithinItsBounds) {
  EXPECT_EQ(AdaptiveMargin(-1).share(), kLowestMargin);
  EXPECT_EQ(AdaptiveMargin(7).share(), kHighestMargin);
  AdaptiveMargin margin(0.1);
  for (int i = 0; i < 10'000; ++i) margin.Record(kPredictedNs, 100 * kPredictedNs, margin.share());
  EXPECT_EQ(margin.share(), kHighestMargin);
  EXPECT_NEAR(margin.error(), 1, 1e-3) << "one wild round counts as an error of 100 % at most";
  for (int i = 0; i < 10'000; ++i) margin.Record(kPredictedNs, kPredictedNs, margin.share());
  EXPECT_EQ(margin.share(), kLowestMargin);
}

TEST(AdaptiveMargin, TellsWhetherTheRoundExceededTheMarginItWasPlannedWith) {
  AdaptiveMargin margin(0.1);
  EXPECT_FALSE(margin.Record(kPredictedNs, Actual(0.2), 0.3)) << "planned with 0.3, whatever the margin is now";
  EXPECT_TRUE(margin.Record(kPredictedNs, Actual(0.2), 0.1));
  EXPECT_FALSE(margin.Record(kPredictedNs, Actual(0.1), 0.100001));
  EXPECT_FALSE(margin.Record(kPredictedNs, kPredictedNs / 2, 0.1));
}

TEST(AdaptiveMargin, ShortRoundsDoNotStretchTheMarginOfLongOnes) {
  EXPECT_EQ(AdaptiveMargin::Of(kPredictedNs, 0.1), kPredictedNs / 10 + AdaptiveMargin::kBaseNs / 10);
  AdaptiveMargin margin(0.1);
  // Every round takes 15 us longer than predicted: a quarter of the short ones, next to nothing of the long ones.
  for (int i = 0; i < 1000; ++i) {
    margin.Record(60'000, 75'000, margin.share());
    margin.Record(kPredictedNs, kPredictedNs + 15'000, margin.share());
  }
  EXPECT_LT(margin.share(), 0.08);
  EXPECT_GT(60'000 + AdaptiveMargin::Of(60'000, margin.share()), 75'000u);
}

}  // namespace
}  // namespace abacus
