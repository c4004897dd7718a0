#include "predictor/corrected_model.h"

#include <algorithm>
#include <cmath>

namespace abacus {
namespace {

constexpr double kMostStep = 0.2;  // of ln(actual / predicted): single disturbed rounds say nothing about the GPU

size_t IndexOf(size_t ranges) { return std::min(ranges, CorrectedModel::kSizes) - 1; }

}  // namespace

Prediction CorrectedModel::Predict(std::span<const OperatorRange> group) const {
  Prediction prediction = base_->Predict(group);
  Correct(group.size(), &prediction);
  return prediction;
}

void CorrectedModel::PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                                    std::span<Prediction> out) const {
  base_->PredictChoices(group, choices, out);
  for (Prediction& prediction : out) Correct(group.size() + 1, &prediction);
}

void CorrectedModel::Correct(size_t ranges, Prediction* prediction) const {
  if (ranges == 0) return;
  const double factor = factors_[prediction->trained ? IndexOf(ranges) : 0];
  prediction->ns = static_cast<uint64_t>(static_cast<double>(prediction->ns) * factor);
}

void CorrectedModel::Record(size_t ranges, const Prediction& predicted, uint64_t actual_ns) {
  if (ranges == 0 || predicted.ns == 0 || actual_ns == 0 || (ranges > 1 && !predicted.trained)) return;
  const auto predicted_ns = static_cast<double>(predicted.ns);
  const double error = std::log(static_cast<double>(actual_ns) / predicted_ns);
  const double weight = kWeight * predicted_ns / (predicted_ns + kShortNs);
  for (size_t i = 0; i < kSizes; ++i) {
    if (i != IndexOf(ranges)) factors_[i] = std::pow(factors_[i], 1 - kForget);
  }
  double& factor = factors_[IndexOf(ranges)];
  factor = std::clamp(factor * std::exp(weight * std::clamp(error, -kMostStep, kMostStep)), kLowest, kHighest);
}

void CorrectedModel::RecordStart(const Prediction& predicted, uint64_t actual_ns) {
  if (predicted.ns == 0) return;
  const int64_t longer_ns = static_cast<int64_t>(actual_ns) - static_cast<int64_t>(predicted.ns);
  start_ns_ += kWeight * (static_cast<double>(std::clamp(longer_ns, -kMostStartNs, kMostStartNs)) - start_ns_);
}

void CorrectedModel::Forget() {
  for (double& factor : factors_) factor = std::pow(factor, 1 - kForget);
  start_ns_ *= 1 - kForget;
}

}  // namespace abacus
