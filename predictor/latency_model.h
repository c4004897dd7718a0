// LatencyModel: predicts how long a group of operator ranges of different models takes when run together.
//
// A pure function without allocation: group in, nanoseconds out. The controller's policies are written against this
// interface; AdditiveModel (sum of solo times) is the fallback that needs no training, OverlapModel the trained one.
// Thread rule: const calls may run concurrently; set-up is single-threaded.
#ifndef ABACUS_PREDICTOR_LATENCY_MODEL_H_
#define ABACUS_PREDICTOR_LATENCY_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/ids.h"

namespace abacus {

inline constexpr size_t kMaxGroup = 16;  // ranges of one group: one per service (shm/layout.h, kMaxServices)

// Operators [first, last) of a job of `service` in `bucket`.
struct OperatorRange {
  ServiceId service{};
  uint32_t bucket = 0;
  uint32_t first = 0;
  uint32_t last = 0;
};

struct Prediction {
  uint64_t ns = 0;       // time until the last range of the group has completed; 0: nothing is known
  bool trained = false;  // by a trained predictor, within what it was trained for
};

class LatencyModel {
 public:
  virtual ~LatencyModel() = default;
  virtual std::string_view name() const = 0;
  virtual Prediction Predict(std::span<const OperatorRange> group) const = 0;
  // What one more range would make of a group: out[i] = Predict(group + choices[i]). The choices may be of one service
  // or of several, and differ in bucket, first and last. `group` has at most kMaxGroup - 1 ranges, `out` the size of
  // `choices`. One call for all is cheaper.
  virtual void PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                              std::span<Prediction> out) const;
  // Choices that differ in their end: out[i] = Predict(group + [range.first, lasts[i])).
  void PredictEnds(std::span<const OperatorRange> group, const OperatorRange& range, std::span<const uint32_t> lasts,
                   std::span<Prediction> out) const;

  uint64_t PredictNs(std::span<const OperatorRange> group) const { return Predict(group).ns; }
  uint64_t PredictNs(const OperatorRange& range) const { return Predict({&range, 1}).ns; }
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_LATENCY_MODEL_H_
