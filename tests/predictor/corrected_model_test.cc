#include "predictor/corrected_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace abacus {
namespace {

// 1 us an operator, group times are sums; service 9 is untrained.
class SumModel : public LatencyModel {
 public:
  std::string_view name() const override { return "sum"; }
  Prediction Predict(std::span<const OperatorRange> group) const override {
    Prediction prediction = {0, true};
    for (const OperatorRange& range : group) {
      prediction.ns += uint64_t{1000} * (range.last - range.first);
      prediction.trained &= range.service != ServiceId(9);
    }
    return prediction;
  }
};

class CorrectedModelTest : public testing::Test {
 protected:
  void Run(std::span<const OperatorRange> group, double slower, int rounds) {
    for (int i = 0; i < rounds; ++i) {
      const auto actual_ns = static_cast<uint64_t>(slower * static_cast<double>(base_.PredictNs(group)));
      model_.Record(group.size(), model_.Predict(group), actual_ns);
    }
  }
  const SumModel base_{};
  CorrectedModel model_{&base_};
  const std::vector<OperatorRange> one_ = {{ServiceId(0), 0, 0, 100}};
  const std::vector<OperatorRange> two_ = {{ServiceId(0), 0, 0, 100}, {ServiceId(1), 0, 0, 50}};
  const std::vector<OperatorRange> untrained_ = {{ServiceId(0), 0, 0, 100}, {ServiceId(9), 0, 0, 50}};
};

TEST_F(CorrectedModelTest, SaysWhatTheBaseSaysUntilRoundsDiffer) {
  EXPECT_EQ(model_.PredictNs(two_), 150'000u);
  Run(two_, 1.0, 100);
  EXPECT_EQ(model_.PredictNs(two_), 150'000u);
}

TEST_F(CorrectedModelTest, LearnsAFactorForEachNumberOfRanges) {
  Run(two_, 1.08, 1500);
  EXPECT_NEAR(static_cast<double>(model_.PredictNs(two_)), 1.08 * 150'000, 100);
  EXPECT_EQ(model_.PredictNs(one_), 100'000u);
  Run(one_, 0.97, 1500);
  EXPECT_NEAR(static_cast<double>(model_.PredictNs(one_)), 0.97 * 100'000, 100);
  for (const size_t size : {3, 4, 5}) {
    std::vector<OperatorRange> group(size, one_.front());
    Run(group, 1 + 0.01 * static_cast<double>(size), 3000);
    EXPECT_NEAR(model_.factors()[std::min(size, CorrectedModel::kSizes) - 1], 1 + 0.01 * static_cast<double>(size),
                0.001);
  }
}

TEST_F(CorrectedModelTest, WhatIsNotConfirmedIsForgotten) {
  Run(two_, 1.5, 1500);
  EXPECT_GT(model_.factors()[1], 1.45) << "pairs do not seem to be worth it and are not run any more";
  Run(one_, 1.0, 2000);
  EXPECT_LT(model_.factors()[1], 1.02);
  Run(one_, 1.5, 3000);
  for (int i = 0; i < 500; ++i) model_.RecordStart(model_.Predict(one_), 900'000);
  for (int i = 0; i < 3000; ++i) model_.Forget();
  EXPECT_LT(model_.factors()[0], 1.01);
  EXPECT_LT(model_.start_ns(), 10'000u);
}

TEST_F(CorrectedModelTest, ShortRoundsCountForLess) {
  const std::vector<OperatorRange> brief = {{ServiceId(0), 0, 0, 20}}, lengthy = {{ServiceId(0), 0, 0, 4000}};
  for (int i = 0; i < 2000; ++i) {
    Run(brief, 1.5, 1);
    Run(lengthy, 1.0, 1);
  }
  EXPECT_LT(model_.factors()[0], 1.025);
}

TEST_F(CorrectedModelTest, ManyEndsAreCorrectedLikeOne) {
  Run(two_, 1.1, 1500);
  const std::vector<uint32_t> lasts = {10, 50};
  std::vector<Prediction> out(2);
  model_.PredictEnds(one_, {ServiceId(1), 0, 0, 0}, lasts, out);
  EXPECT_EQ(out[1].ns, model_.PredictNs(two_));
  EXPECT_LT(out[0].ns, out[1].ns);
}

TEST_F(CorrectedModelTest, GroupsWithoutTrainingAreCorrectedLikeSingleRanges) {
  Run(one_, 1.05, 1500);
  EXPECT_NEAR(static_cast<double>(model_.PredictNs(untrained_)), 1.05 * 150'000, 150);
  Run(untrained_, 0.5, 500);
  EXPECT_EQ(model_.factors()[1], 1) << "sums of solo times say nothing about overlap";
}

TEST_F(CorrectedModelTest, OneDisturbedRoundHardlyCountsAndFactorsAreBounded) {
  Run(two_, 50, 1);
  EXPECT_LT(model_.factors()[1], 1.005);
  Run(two_, 50, 10'000);
  EXPECT_EQ(model_.factors()[1], CorrectedModel::kHighest);
  Run(two_, 0.001, 10'000);
  EXPECT_EQ(model_.factors()[1], CorrectedModel::kLowest);
}

TEST_F(CorrectedModelTest, TheStartOnAnIdleGpuIsKeptApart) {
  for (int i = 0; i < 500; ++i) model_.RecordStart(model_.Predict(one_), 175'000);
  EXPECT_NEAR(static_cast<double>(model_.start_ns()), 75'000, 100);
  EXPECT_EQ(model_.PredictNs(one_), 100'000u);
  for (int i = 0; i < 2000; ++i) model_.RecordStart(model_.Predict(one_), 50'000);
  EXPECT_EQ(model_.start_ns(), 0u);
}

TEST_F(CorrectedModelTest, UnknownTimesStayUnknown) {
  Run(one_, 1.2, 100);
  EXPECT_EQ(model_.Predict({}).ns, 0u);
  model_.Record(1, {0, true}, 100);
  model_.RecordStart({0, true}, 100);
  EXPECT_EQ(model_.start_ns(), 0u);
}

}  // namespace
}  // namespace abacus
