#include "predictor/train/standardizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "tests/predictor/train/synthetic_profile.h"

namespace abacus {
namespace {

class StandardizerTest : public ::testing::Test {
 protected:
  StandardizerTest() {
    const std::string names[] = {"profile"};
    dataset_ = *MakeDataset({MakeSyntheticProfile({})}, names, {});
    rows_.resize(dataset_.samples.size());
    std::iota(rows_.begin(), rows_.end(), 0u);
  }

  Dataset dataset_;
  std::vector<uint32_t> rows_;
};

TEST_F(StandardizerTest, PresentColumnsHaveMeanZeroAndDeviationOne) {
  const Standardizer standardizer(dataset_.columns, dataset_.targets, rows_);
  const Matrix columns = standardizer.Columns(dataset_.columns, rows_);
  for (size_t j = 0; j < columns.columns; ++j) {
    const bool of_model = j < columns.columns - kGroupColumns;
    if (of_model && j % kRangeColumns == 0) continue;
    double count = 0, sum = 0, square_sum = 0;
    for (const uint32_t row : rows_) {
      const bool present = !of_model || dataset_.columns.row(row)[j - j % kRangeColumns] != 0;
      const double value = columns.row(row)[j];
      EXPECT_TRUE(present || value == 0) << "column " << j;
      count += present;
      sum += value;
      square_sum += value * value;
    }
    EXPECT_NEAR(sum / count, 0, 1e-3) << "column " << j;
    // Without a sequence dimension its column is always 0.
    if (of_model && j % kRangeColumns == 3) continue;
    EXPECT_NEAR(square_sum / count, 1, 1e-3) << "column " << j;
  }
}

TEST_F(StandardizerTest, FoldedNetworkTakesRawColumns) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.2f);
  std::vector<MlpLayer> layers;
  for (const auto& [inputs, outputs] :
       {std::pair{dataset_.columns.columns, kHiddenWidth}, {kHiddenWidth, kHiddenWidth}, {kHiddenWidth, size_t{1}}}) {
    MlpLayer& layer = layers.emplace_back(MlpLayer{inputs, outputs, {}, {}});
    for (size_t i = 0; i < inputs * outputs; ++i) layer.weights.push_back(normal(random));
    for (size_t i = 0; i < outputs; ++i) layer.bias.push_back(normal(random));
  }
  const Standardizer standardizer(dataset_.columns, dataset_.targets, rows_);
  const auto standardised = Mlp::Create(layers), raw = Mlp::Create(standardizer.Fold(layers));
  ASSERT_TRUE(standardised && raw);
  const Matrix columns = standardizer.Columns(dataset_.columns);
  for (const uint32_t row : rows_) {
    const double expected =
        standardised->Evaluate(columns.row(row)) * standardizer.target_scale() + standardizer.target_mean();
    EXPECT_NEAR(raw->Evaluate(dataset_.columns.row(row)), expected, 1e-5);
  }
}

}  // namespace
}  // namespace abacus
