#include "predictor/solo_correction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "predictor/additive_model.h"
#include "tests/predictor/count_allocations.h"

namespace abacus {
namespace {

constexpr ServiceId kA(0), kB(1);
constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kSoloNs = 50 * kMs;  // as measured, of a whole pass of either service

// Two services of ten operators, predicted by the sum of their corrected solo times.
class SoloCorrectionTest : public testing::Test {
 protected:
  SoloCorrectionTest() {
    model_.SetCorrection(&solo_);
    for (const ServiceId service : {kA, kB}) {
      model_.SetBucket(service, 0, kCuts, kSoloNs);
      model_.SetBucket(service, 1, kCuts, kSoloNs);
      solo_.SetBuckets(service, std::vector<uint64_t>{kSoloNs, kSoloNs});
    }
  }
  struct Ran {
    OperatorRange range;
    double took_ms;
  };
  // A round of these ranges; whether it was clearly wrong about one.
  bool Round(const std::vector<Ran>& ran, SoloCorrection::Conditions conditions = {}) {
    std::vector<SoloCorrection::Part> parts;
    for (const Ran& one : ran) {
      parts.push_back({one.range, model_.PredictNs(one.range), static_cast<uint64_t>(one.took_ms * kMs)});
    }
    return solo_.Record(parts, conditions);
  }
  bool Alone(double took_ms, SoloCorrection::Conditions conditions = {}) {
    return Round({{Whole(kA), took_ms}}, conditions);
  }
  static OperatorRange Whole(ServiceId service) { return {service, 0, 0, 10}; }
  double FactorOf(ServiceId service) const { return solo_.factor(service, 0); }

  static constexpr uint32_t kCuts[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  SoloCorrection solo_;
  AdditiveModel model_;
};

TEST_F(SoloCorrectionTest, ATimeWrongByTenIsRightAfterOneRoundOfANewWorker) {
  EXPECT_TRUE(Alone(5));
  EXPECT_NEAR(FactorOf(kA), 0.1, 1e-6);
  EXPECT_EQ(model_.PredictNs(Whole(kA)), 5 * kMs);
  EXPECT_FALSE(Alone(5)) << "the next one is as predicted";
  EXPECT_EQ(FactorOf(kB), 1) << "what is learned of one says nothing of another";
  EXPECT_EQ(solo_.factor(kA, 1), 1) << "nor of another bucket";
}

TEST_F(SoloCorrectionTest, UpwardsAsWell) {
  EXPECT_TRUE(Alone(700));
  EXPECT_NEAR(FactorOf(kA), 14, 1e-6);
}

TEST_F(SoloCorrectionTest, ALongKnownTimeTakesThreeRoundsOfTheLastFive) {
  for (const double took_ms : {5.0, 500.0}) {
    solo_ = {};
    solo_.SetBuckets(kA, std::vector<uint64_t>{kSoloNs});
    for (int i = 0; i < 200; ++i) EXPECT_FALSE(Alone(50));
    Alone(took_ms);
    Alone(took_ms);
    EXPECT_NEAR(FactorOf(kA), 1, 1e-6);
    EXPECT_TRUE(Alone(took_ms));
    EXPECT_NEAR(FactorOf(kA), took_ms / 50, 1e-6);
  }
}

TEST_F(SoloCorrectionTest, SingleDisturbedRoundsChangeNothing) {
  Alone(500);
  EXPECT_NEAR(FactorOf(kA), 10, 1e-6) << "the first one has nothing to stand against";
  Alone(50);
  EXPECT_NEAR(FactorOf(kA), 1, 1e-6) << "of two the lower";
  for (int i = 0; i < 100; ++i) Alone(i % 4 == 0 ? 500 : 50);
  EXPECT_NEAR(FactorOf(kA), 1, 1e-6);
}

TEST_F(SoloCorrectionTest, SmallErrorsAreFollowedLikeAMeanAtFirstAndSlowlyLater) {
  Alone(60);  // within kClear: no jump
  const double share = 50.0 / 50.2;
  EXPECT_NEAR(std::log(FactorOf(kA)), share * std::log(1.2) / (SoloCorrection::kMeasured + 1), 1e-6);
  Alone(5);  // of two the lower: a jump, and from here on a mean
  const double before = FactorOf(kA);
  Alone(6);
  const double alone_ms = before * 50;
  const double short_share = alone_ms / (alone_ms + 0.2);
  EXPECT_NEAR(std::log(FactorOf(kA) / before), short_share * std::log(6 / alone_ms) / 2, 1e-4);
  for (int i = 0; i < 500; ++i) Alone(5);
  EXPECT_NEAR(FactorOf(kA), 0.1, 1e-4);
  Alone(6);
  EXPECT_NEAR(std::log(FactorOf(kA) / 0.1), 5 / 5.2 * std::log(1.2) / (SoloCorrection::kSettled + 1), 1e-4);
}

// What a correct prediction loses by being corrected: the factor's own wandering, next to the noise of a round.
TEST_F(SoloCorrectionTest, NoiseHardlyMovesASettledFactor) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.05);
  double sum = 0;
  for (int i = 0; i < 4000; ++i) {
    Alone(50 * std::exp(noise(random)));
    if (i >= 200) sum += std::pow(std::log(FactorOf(kA)), 2);
  }
  EXPECT_LT(std::sqrt(sum / 3800), 0.1 * 0.05);
}

TEST_F(SoloCorrectionTest, InAGroupARangeNeedsAtMostItsOwnTime) {
  EXPECT_TRUE(Round({{Whole(kA), 8}, {Whole(kB), 55}}));
  EXPECT_NEAR(FactorOf(kA), 0.16, 1e-6);
  EXPECT_EQ(FactorOf(kB), 1) << "50 alone, 47 at least: as predicted";
}

TEST_F(SoloCorrectionTest, InAGroupTheLastNeedsAtLeastWhatTheOthersDoNot) {
  EXPECT_TRUE(Round({{Whole(kA), 42}, {Whole(kB), 302}}));
  EXPECT_NEAR(FactorOf(kB), 260.0 / 50, 1e-6);
  EXPECT_EQ(FactorOf(kA), 1) << "42 is not clearly less than 50";
}

TEST_F(SoloCorrectionTest, AGroupThatTakesAsLongAsItsPartsTeachesNothing) {
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(Round({{Whole(kA), 60}, {Whole(kB), 100}}));
  EXPECT_EQ(FactorOf(kA), 1);
  EXPECT_EQ(FactorOf(kB), 1);
}

TEST_F(SoloCorrectionTest, APieceCountsWhenItIsWrongByTwo) {
  const OperatorRange piece = {kA, 0, 0, 2};
  EXPECT_FALSE(Round({{piece, 6}})) << "10 predicted: cut points are not that exact";
  EXPECT_NEAR(FactorOf(kA), 1, 0.02);
  EXPECT_TRUE(Round({{piece, 1}}));
  EXPECT_NEAR(FactorOf(kA), 0.1, 0.002);
}

TEST_F(SoloCorrectionTest, WhileTheDeviceIsNotQuietOnlyShorterTimesTeach) {
  const SoloCorrection::Conditions busy = {.quiet = false, .ahead = true};
  EXPECT_FALSE(Alone(500, busy));
  EXPECT_FALSE(Alone(55, busy));
  EXPECT_EQ(FactorOf(kA), 1);
  Alone(5, busy);
  Alone(5, busy);
  EXPECT_NEAR(FactorOf(kA), 0.1, 1e-6);
}

TEST_F(SoloCorrectionTest, AStartOnAnIdleDeviceIsNoSmallErrorOfASoloTime) {
  const SoloCorrection::Conditions idle = {.quiet = true, .ahead = false};
  for (int i = 0; i < 100; ++i) Alone(51, idle);
  EXPECT_EQ(FactorOf(kA), 1);
  for (int i = 0; i < 3; ++i) Alone(10, idle);
  EXPECT_NEAR(FactorOf(kA), 0.2, 1e-6) << "a large one is";
}

TEST_F(SoloCorrectionTest, ShortTimesAreNotClearlyWrongByLateCompletions) {
  const ServiceId brief(2);
  model_.SetBucket(brief, 0, kCuts, 60'000);
  solo_.SetBuckets(brief, std::vector<uint64_t>{60'000});
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(Round({{Whole(brief), 0.2}}));
  EXPECT_LT(solo_.factor(brief, 0), 1.3);
}

TEST_F(SoloCorrectionTest, WhatWasLearnedStaysWithTheTimesItIsOf) {
  Alone(5);
  solo_.SetBuckets(kA, std::vector<uint64_t>{kSoloNs, kSoloNs});
  EXPECT_NEAR(FactorOf(kA), 0.1, 1e-6) << "its successor took the times over";
  solo_.SetBuckets(kA, std::vector<uint64_t>{kSoloNs / 10, kSoloNs});
  EXPECT_EQ(FactorOf(kA), 1) << "measured again";
}

TEST_F(SoloCorrectionTest, NothingIsLearnedOfWhatIsUnknown) {
  EXPECT_FALSE(Round({{{ServiceId(9), 0, 0, 10}, 5}}));
  EXPECT_FALSE(Round({{{kA, 7, 0, 10}, 5}}));
  EXPECT_FALSE(Alone(0));
  EXPECT_FALSE(solo_.Record({}, {}));
  EXPECT_EQ(solo_.factor(ServiceId(9), 0), 1);
  EXPECT_EQ(solo_.factor(kA, 7), 1);
}

TEST_F(SoloCorrectionTest, FactorsStayFinite) {
  for (int i = 0; i < 20; ++i) {
    const SoloCorrection::Part part = {Whole(kA), 1'000'000, UINT64_MAX / 4};
    solo_.Record({&part, 1}, {});
  }
  EXPECT_LE(FactorOf(kA), 1001);
  EXPECT_TRUE(std::isfinite(FactorOf(kA)));
}

TEST_F(SoloCorrectionTest, RecordDoesNotAllocate) {
  const SoloCorrection::Part part = {Whole(kA), 50 * kMs, 5 * kMs};
  const uint64_t before = test::AllocationCount();
  for (int i = 0; i < 10; ++i) solo_.Record({&part, 1}, {});
  EXPECT_EQ(test::AllocationCount(), before);
}

}  // namespace
}  // namespace abacus
