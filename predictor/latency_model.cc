#include "predictor/latency_model.h"

#include <algorithm>
#include <array>

namespace abacus {

void LatencyModel::PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                                  std::span<Prediction> out) const {
  std::array<OperatorRange, kMaxGroup> extended;
  std::copy(group.begin(), group.end(), extended.begin());
  for (size_t i = 0; i < choices.size(); ++i) {
    extended[group.size()] = choices[i];
    out[i] = Predict({extended.data(), group.size() + 1});
  }
}

void LatencyModel::PredictEnds(std::span<const OperatorRange> group, const OperatorRange& range,
                               std::span<const uint32_t> lasts, std::span<Prediction> out) const {
  std::array<OperatorRange, 65> choices;  // as many as a bucket has cut points: one call, mostly
  for (size_t done = 0; done < lasts.size();) {
    const size_t count = std::min(choices.size(), lasts.size() - done);
    for (size_t i = 0; i < count; ++i) choices[i] = {range.service, range.bucket, range.first, lasts[done + i]};
    PredictChoices(group, std::span(choices).first(count), out.subspan(done, count));
    done += count;
  }
}

}  // namespace abacus
