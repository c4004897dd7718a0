#include "predictor/train/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace abacus {
namespace {

using ::testing::DoubleNear;

Predicted Row(double measured_us, double network_us) { return {0, measured_us, network_us, measured_us, measured_us}; }

TEST(Evaluation, FiguresAreSharesOfTheMeasuredTime) {
  const std::vector<Predicted> rows = {Row(100, 90), Row(200, 202), Row(50, 50), Row(10, 9.6)};
  const ErrorFigures figures = FiguresOf(rows);
  EXPECT_EQ(figures.samples, 4u);
  EXPECT_THAT(figures.network, DoubleNear((0.1 + 0.01 + 0 + 0.04) / 4, 1e-12));
  EXPECT_EQ(figures.linear, 0);
  EXPECT_EQ(figures.under, 0.25);
  EXPECT_THAT(figures.p99, DoubleNear(0.04 + 0.97 * 0.06, 1e-12));
  EXPECT_EQ(FiguresOf({}).samples, 0u);
}

TEST(Evaluation, ResidualsAreOfThePrediction) {
  const std::vector<double> residuals = ResidualQuantiles(std::vector<Predicted>{Row(110, 100), Row(90, 100)});
  ASSERT_EQ(residuals.size(), 1001u);
  EXPECT_TRUE(std::is_sorted(residuals.begin(), residuals.end()));
  EXPECT_THAT(residuals.front(), DoubleNear(-0.1, 1e-12));
  EXPECT_THAT(residuals[500], DoubleNear(0, 1e-12));
  EXPECT_THAT(residuals.back(), DoubleNear(0.1, 1e-12));
}

}  // namespace
}  // namespace abacus
