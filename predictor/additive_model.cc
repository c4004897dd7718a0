#include "predictor/additive_model.h"

#include <algorithm>

namespace abacus {

void AdditiveModel::SetBucket(ServiceId service, uint32_t bucket, std::span<const uint32_t> cuts, uint64_t solo_ns) {
  if (entries_.size() <= service.value()) entries_.resize(service.value() + 1);
  std::vector<Entry>& buckets = entries_[service.value()];
  if (buckets.size() <= bucket) buckets.resize(bucket + 1);
  buckets[bucket] = {{cuts.begin(), cuts.end()}, solo_ns};
}

Prediction AdditiveModel::Predict(std::span<const OperatorRange> group) const {
  uint64_t total_ns = 0;
  for (const OperatorRange& range : group) {
    const size_t service = range.service.value();
    if (service >= entries_.size() || range.bucket >= entries_[service].size()) continue;
    const Entry& entry = entries_[service][range.bucket];
    if (entry.cuts.size() < 2) continue;
    const auto at = [&](uint32_t op) {
      return static_cast<uint64_t>(std::lower_bound(entry.cuts.begin(), entry.cuts.end(), op) - entry.cuts.begin());
    };
    const uint64_t range_ns = entry.solo_ns * (at(range.last) - at(range.first)) / (entry.cuts.size() - 1);
    const double factor = correction_ != nullptr ? correction_->factor(range.service, range.bucket) : 1;
    total_ns += factor == 1 ? range_ns : static_cast<uint64_t>(static_cast<double>(range_ns) * factor);
  }
  return {total_ns, false};
}

void AdditiveModel::PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                                   std::span<Prediction> out) const {
  const uint64_t group_ns = Predict(group).ns;
  for (size_t i = 0; i < choices.size(); ++i) out[i] = {group_ns + Predict({&choices[i], 1}).ns, false};
}

}  // namespace abacus
