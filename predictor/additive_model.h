// AdditiveModel: the time of a group is the sum of its parts' solo times, as if they ran one after another.
//
// An upper bound on the time of a group as long as overlap does not hurt, so it is the safe fallback without a trained
// predictor. Solo times come from the workers, which measure one whole pass per bucket when they load; a range counts
// by its share of operators at cut points (cut points are equally spaced in solo time).
// Thread rule: SetBucket from one thread while nobody predicts. Ownership: borrows the correction.
#ifndef ABACUS_PREDICTOR_ADDITIVE_MODEL_H_
#define ABACUS_PREDICTOR_ADDITIVE_MODEL_H_

#include <vector>

#include "predictor/latency_model.h"
#include "predictor/solo_correction.h"

namespace abacus {

class AdditiveModel : public LatencyModel {
 public:
  // `cuts`: ascending operator indices from 0 to the number of operators.
  void SetBucket(ServiceId service, uint32_t bucket, std::span<const uint32_t> cuts, uint64_t solo_ns);
  // Factors on all solo times; null: none.
  void SetCorrection(const SoloCorrection* correction) { correction_ = correction; }
  // Of a whole pass, uncorrected; 0: unknown.
  uint64_t SoloNs(ServiceId service, uint32_t bucket) const {
    const bool known = service.value() < entries_.size() && bucket < entries_[service.value()].size();
    return known ? entries_[service.value()][bucket].solo_ns : 0;
  }

  std::string_view name() const override { return "additive"; }
  Prediction Predict(std::span<const OperatorRange> group) const override;
  void PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                      std::span<Prediction> out) const override;

 private:
  struct Entry {
    std::vector<uint32_t> cuts;
    uint64_t solo_ns = 0;
  };
  std::vector<std::vector<Entry>> entries_;  // [service][bucket]
  const SoloCorrection* correction_ = nullptr;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_ADDITIVE_MODEL_H_
