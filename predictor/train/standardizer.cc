#include "predictor/train/standardizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace abacus {
namespace {

constexpr size_t kAlways = static_cast<size_t>(-1);
// A column that hardly varies carries nothing, and dividing by its deviation would blow its rounding error up.
constexpr double kLeastDeviation = 1e-3;

double ScaleOf(double square_sum, double count) {
  const double deviation = std::sqrt(square_sum / std::max(count, 1.0));
  return deviation < kLeastDeviation ? 1 : deviation;
}

}  // namespace

size_t Standardizer::PresenceOf(size_t column) const {
  return column < model_columns_ ? column - column % kRangeColumns : kAlways;
}

bool Standardizer::IsPresence(size_t column) const { return PresenceOf(column) == column; }

Standardizer::Standardizer(const Matrix& columns, std::span<const float> targets, std::span<const uint32_t> rows)
    : model_columns_(columns.columns - kGroupColumns), mean_(columns.columns), scale_(columns.columns, 1) {
  for (size_t j = 0; j < columns.columns; ++j) {
    if (IsPresence(j)) continue;
    const size_t presence = PresenceOf(j);
    const auto present = [&](uint32_t row) { return presence == kAlways || columns.row(row)[presence] != 0; };
    double count = 0, sum = 0, square_sum = 0;
    for (const uint32_t row : rows) {
      if (!present(row)) continue;
      sum += columns.row(row)[j];
      ++count;
    }
    mean_[j] = count > 0 ? sum / count : 0;
    for (const uint32_t row : rows) {
      if (present(row)) square_sum += std::pow(columns.row(row)[j] - mean_[j], 2);
    }
    scale_[j] = ScaleOf(square_sum, count);
  }
  const auto count = static_cast<double>(rows.size());
  double square_sum = 0;
  for (const uint32_t row : rows) target_mean_ += targets[row] / count;
  for (const uint32_t row : rows) square_sum += std::pow(targets[row] - target_mean_, 2);
  target_scale_ = ScaleOf(square_sum, count);
}

Matrix Standardizer::Columns(const Matrix& columns) const {
  std::vector<uint32_t> rows(columns.rows());
  std::iota(rows.begin(), rows.end(), 0u);
  return Columns(columns, rows);
}

Matrix Standardizer::Columns(const Matrix& columns, std::span<const uint32_t> rows) const {
  Matrix result;
  result.columns = columns.columns;
  result.values.reserve(rows.size() * columns.columns);
  for (const uint32_t row : rows) {
    const std::span<const float> in = columns.row(row);
    for (size_t j = 0; j < in.size(); ++j) {
      const size_t presence = PresenceOf(j);
      const double present = presence == kAlways ? 1 : in[presence];
      result.values.push_back(static_cast<float>((in[j] - present * mean_[j]) / scale_[j]));
    }
  }
  return result;
}

std::vector<float> Standardizer::Targets(std::span<const float> targets, std::span<const uint32_t> rows) const {
  std::vector<float> result;
  result.reserve(rows.size());
  for (const uint32_t row : rows) result.push_back(static_cast<float>((targets[row] - target_mean_) / target_scale_));
  return result;
}

std::vector<MlpLayer> Standardizer::Fold(std::vector<MlpLayer> layers) const {
  MlpLayer& first = layers.front();
  for (size_t o = 0; o < first.outputs; ++o) {
    std::vector<double> weights(first.inputs);
    double bias = first.bias[o];
    for (size_t j = 0; j < first.inputs; ++j) {
      const double weight = first.weights[j * first.outputs + o] / scale_[j];
      const size_t presence = PresenceOf(j);
      weights[j] += weight;
      (presence == kAlways ? bias : weights[presence]) -= weight * mean_[j];
    }
    for (size_t j = 0; j < first.inputs; ++j) {
      first.weights[j * first.outputs + o] = static_cast<float>(weights[j]);
    }
    first.bias[o] = static_cast<float>(bias);
  }
  MlpLayer& last = layers.back();
  for (float& weight : last.weights) weight = static_cast<float>(weight * target_scale_);
  for (float& bias : last.bias) bias = static_cast<float>(bias * target_scale_ + target_mean_);
  return layers;
}

}  // namespace abacus
