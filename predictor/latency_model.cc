#include "predictor/latency_model.h"

#include <algorithm>
#include <array>

namespace abacus {

void LatencyModel::PredictEnds(std::span<const OperatorRange> group, const OperatorRange& range,
                               std::span<const uint32_t> lasts, std::span<Prediction> out) const {
  std::array<OperatorRange, kMaxGroup> extended;
  std::copy(group.begin(), group.end(), extended.begin());
  for (size_t i = 0; i < lasts.size(); ++i) {
    extended[group.size()] = {range.service, range.bucket, range.first, lasts[i]};
    out[i] = Predict({extended.data(), group.size() + 1});
  }
}

}  // namespace abacus
