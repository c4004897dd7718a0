// CorrectedModel: a latency model, corrected by how long rounds really take on this GPU, now.
//
// A predictor speaks for the GPU that it was profiled on. Another GPU of the same type, or the same one on another day,
// runs groups several per cent faster or slower, all groups of one size alike, while single ranges hardly differ
// (docs/predictor.md). So there is a factor for each number of ranges, 1, 2, 3, and 4 or more: the exponential of a
// moving average of ln(actual / predicted) over about 1 / kWeight rounds, bounded. A round counts for less the shorter
// it is, since a late completion costs the same in all. Groups that the base has no training for are corrected like
// single ranges: what is learned of overlap does not hold for a sum of solo times.
//
// Beside that, start_ns: what a round takes longer when it begins on an idle GPU, because its commands could not be
// sent ahead; a moving average, too. It is not part of Predict: whoever plans such a round adds it.
//
// What is learned decides what runs, and only what runs teaches. So that a disturbance cannot keep groups or queries
// from running for good, what is not confirmed is forgotten slowly: with every recorded round the factors of the other
// sizes, and with Forget everything.
//
// Ownership: borrows the base, which must outlive it. Thread rule: as LatencyModel; Record calls come between others.
#ifndef ABACUS_PREDICTOR_CORRECTED_MODEL_H_
#define ABACUS_PREDICTOR_CORRECTED_MODEL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "predictor/latency_model.h"

namespace abacus {

class CorrectedModel : public LatencyModel {
 public:
  static constexpr size_t kSizes = 4;
  static constexpr double kWeight = 0.02;
  static constexpr double kLowest = 0.7, kHighest = 1.5;
  static constexpr double kForget = 0.002;  // share of ln(factor), and of start_ns
  static constexpr int64_t kMostStartNs = 1'000'000;
  static constexpr uint64_t kShortNs = 200'000;  // rounds of this length count half

  explicit CorrectedModel(const LatencyModel* base) : base_(base) { factors_.fill(1); }

  std::string_view name() const override { return base_->name(); }
  Prediction Predict(std::span<const OperatorRange> group) const override;
  void PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                      std::span<Prediction> out) const override;

  // A round of `ranges` ranges, sent ahead, took `actual_ns`; `predicted` is what Predict said of it.
  void Record(size_t ranges, const Prediction& predicted, uint64_t actual_ns);
  // The same of a round that began on an idle GPU.
  void RecordStart(const Prediction& predicted, uint64_t actual_ns);
  // Something did not run because of what was predicted.
  void Forget();

  // By number of ranges - 1; the last one stands for all larger groups.
  const std::array<double, kSizes>& factors() const { return factors_; }
  uint64_t start_ns() const { return start_ns_ > 0 ? static_cast<uint64_t>(start_ns_) : 0; }

 private:
  void Correct(size_t ranges, Prediction* prediction) const;

  const LatencyModel* const base_;
  std::array<double, kSizes> factors_;
  double start_ns_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_CORRECTED_MODEL_H_
