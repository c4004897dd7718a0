// LatencyModel: predicts how long a group of operator ranges of different models takes when run together.
//
// A pure function without allocation: group in, microseconds out. The controller's policies are written against this
// interface; AdditiveModel (sum of solo times) is the fallback that needs no training.
// Thread rule: const calls may run concurrently; set-up is single-threaded.
#ifndef ABACUS_PREDICTOR_LATENCY_MODEL_H_
#define ABACUS_PREDICTOR_LATENCY_MODEL_H_

#include <cstdint>
#include <span>
#include <string_view>

namespace abacus {

// Operators [first, last) of a job of `service` in `bucket`.
struct OperatorRange {
  uint32_t service = 0;
  uint32_t bucket = 0;
  uint32_t first = 0;
  uint32_t last = 0;
};

class LatencyModel {
 public:
  virtual ~LatencyModel() = default;
  virtual std::string_view name() const = 0;
  // Predicted time until the last range of the group has completed, in nanoseconds. 0: nothing is known.
  virtual uint64_t PredictNs(std::span<const OperatorRange> group) const = 0;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_LATENCY_MODEL_H_
