#include "predictor/features.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/predictor/small_predictor.h"

namespace abacus {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

std::array<float, kRangeColumns> RangeColumns(const RangeTimes& times) {
  std::array<float, kRangeColumns> columns;
  FillRangeColumns(times, columns);
  return columns;
}
std::vector<float> Coverage(const RangeTimes& times) {
  const auto columns = RangeColumns(times);
  return {columns.begin() + 6, columns.end()};
}

class FeaturesTest : public testing::Test {
 protected:
  const ProfileData profile_ = test::SmallProfile();
};

TEST_F(FeaturesTest, ARangeFromTheStartTakesItsPrefix) {
  const RangeTimes times = TimesOf(profile_.models[0].buckets[0], 0, 4);
  EXPECT_FLOAT_EQ(times.first_us, 0);
  EXPECT_FLOAT_EQ(times.solo_us(), 110);
  EXPECT_FLOAT_EQ(times.whole_us, 210);
}

TEST_F(FeaturesTest, AResumedRangePaysForItsOwnRound) {
  const BucketProfile& bucket = profile_.models[0].buckets[0];
  EXPECT_FLOAT_EQ(TimesOf(bucket, 2, 8).solo_us(), 210 - 60 + 10);
  // Between measured points, too: P(3) = 85 and P(6) = 160.
  EXPECT_FLOAT_EQ(TimesOf(bucket, 3, 6).solo_us(), 160 - 85 + 10);
}

TEST_F(FeaturesTest, ColumnsOfARange) {
  const RangeTimes times = TimesOf(profile_.models[0].buckets[0], 2, 8);  // 50 us to 210 us of 210 us
  const float start = 50.0f / 210;
  const std::array<float, kRangeColumns> expected = {
      1, std::log(160.0f), 0, 0, start, 1, 0, 2 - 8 * start, 1, 1, 1, 1, 1, 1};
  EXPECT_THAT(RangeColumns(times), Pointwise(FloatNear(1e-5f), expected));
  const auto sequence = RangeColumns(TimesOf(profile_.models[1].buckets[0], 0, 10));
  EXPECT_FLOAT_EQ(sequence[2], 1);  // batch 2
  EXPECT_FLOAT_EQ(sequence[3], 4);  // sequence 16
}

TEST_F(FeaturesTest, CoverageOfEighths) {
  const auto near = [](float x) { return FloatNear(x, 1e-5f); };
  EXPECT_THAT(Coverage({0, 800, 800, 0, 0}), Each(1.0f));
  EXPECT_THAT(Coverage({130, 140, 800, 0, 0}), ElementsAre(0, near(0.1f), 0, 0, 0, 0, 0, 0)) << "inside one eighth";
  EXPECT_THAT(Coverage({100, 200, 800, 0, 0}), ElementsAre(0, 1, 0, 0, 0, 0, 0, 0)) << "exactly one eighth";
  EXPECT_THAT(Coverage({250, 420, 800, 0, 0}), ElementsAre(0, 0, near(0.5f), 1, near(0.2f), 0, 0, 0));
  EXPECT_THAT(Coverage({790, 800, 800, 0, 0}), ElementsAre(0, 0, 0, 0, 0, 0, 0, near(0.1f)));
}

TEST_F(FeaturesTest, ARangeThatTakesNoTimeStaysFinite) {
  for (const float x : RangeColumns({100, 100, 800, 0, 0})) EXPECT_TRUE(std::isfinite(x));
  GroupTimes group;
  group.Add(0);
  EXPECT_GT(group.sum_us, 0);
}

TEST_F(FeaturesTest, ColumnsOfAGroup) {
  GroupTimes group;
  for (const float us : {30.0f, 100.0f, 70.0f}) group.Add(us);
  std::array<float, kGroupColumns> columns;
  FillGroupColumns(group, columns);
  EXPECT_THAT(columns,
              ElementsAre(FloatNear(std::log(200.0f), 1e-6f), FloatNear(std::log(100.0f), 1e-6f), 0.5f, 0.7f, 1.0f));
  // The second largest whatever the order.
  for (const auto& order : {std::array{100.0f, 30.0f, 70.0f}, {70.0f, 30.0f, 100.0f}, {100.0f, 70.0f, 30.0f}}) {
    GroupTimes other;
    for (const float us : order) other.Add(us);
    EXPECT_EQ(other.second_us, 70);
    EXPECT_EQ(other.max_us, 100);
  }
}

TEST_F(FeaturesTest, ASampleHasItsModelsColumnsAndZerosForTheOthers) {
  const std::array<ProfiledRange, 2> ranges = {{{2, 0, 1, 4}, {0, 1, 0, 8}}};
  std::vector<float> columns(FeatureCount(3), 99);
  FillColumns(profile_, ranges, columns);
  const std::span<const float> all = columns;
  EXPECT_THAT(all.first(kRangeColumns),
              Pointwise(testing::FloatEq(), RangeColumns(TimesOf(profile_.models[0].buckets[1], 0, 8))));
  EXPECT_THAT(all.subspan(kRangeColumns, kRangeColumns), Each(0.0f)) << "model b is absent";
  EXPECT_THAT(all.subspan(2 * kRangeColumns, kRangeColumns),
              Pointwise(testing::FloatEq(), RangeColumns(TimesOf(profile_.models[2].buckets[0], 1, 4))));
  const auto group = all.last(kGroupColumns);  // 410 us and 75 us
  EXPECT_FLOAT_EQ(group[0], std::log(485.0f));
  EXPECT_FLOAT_EQ(group[1], std::log(410.0f));
  EXPECT_FLOAT_EQ(group[3], 75.0f / 410);
  EXPECT_FLOAT_EQ(group[4], 0);
}

TEST_F(FeaturesTest, DecodingUndoesEncodingWithinBounds) {
  GroupTimes group;
  group.Add(100);
  group.Add(60);
  for (const double us : {80.0, 101.0, 160.0, 239.0}) {
    EXPECT_NEAR(DecodeTime(EncodeTime(us, group), group), us, us * 1e-6);
  }
  EXPECT_FLOAT_EQ(EncodeTime(160, group), 0);
  EXPECT_DOUBLE_EQ(DecodeTime(-100, group), kLowestShare * 100) << "no less than the longest range needs";
  EXPECT_DOUBLE_EQ(DecodeTime(100, group), kHighestShare * 160);
}

TEST_F(FeaturesTest, WhatIsNoNumberIsBoundedToo) {
  GroupTimes group;
  group.Add(100);
  group.Add(60);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_DOUBLE_EQ(DecodeTime(kInfinity, group), kHighestShare * 160);
  EXPECT_DOUBLE_EQ(DecodeTime(-kInfinity, group), kLowestShare * 100);
  EXPECT_DOUBLE_EQ(DecodeTime(std::nanf(""), group), kHighestShare * 160) << "the careful end";
}

}  // namespace
}  // namespace abacus
