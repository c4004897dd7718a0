// OverlapModel: the trained, overlap-aware latency predictor behind the LatencyModel interface.
//
// One range alone: its solo time, read from the profile. Several ranges: the network. A set of models that it was not
// trained on, or a bucket that was never connected: the additive model, with Prediction::trained false.
//
// A service is connected to the model of the same name once its worker says how many operators each bucket has. Cut
// points may differ from those of profiling: the solo time of any prefix is read between the measured points.
//
// Thread rule, allocation: as LatencyModel; Connect from one thread while nobody predicts. Ownership: borrows the
// correction.
#ifndef ABACUS_PREDICTOR_OVERLAP_MODEL_H_
#define ABACUS_PREDICTOR_OVERLAP_MODEL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "predictor/additive_model.h"
#include "predictor/features.h"
#include "predictor/mlp.h"
#include "predictor/predictor_file.h"
#include "predictor/solo_correction.h"

namespace abacus {

class OverlapModel : public LatencyModel {
 public:
  // Checks that file's network, models and numbers belong together.
  static Result<std::unique_ptr<OverlapModel>> Create(PredictorFile file);

  const PredictorFile& file() const { return file_; }

  // What a worker says about itself when it comes up.
  struct ServiceFacts {
    std::string device;
    std::string libraries;
    struct BucketFacts {
      int64_t batch = 1;
      int64_t sequence = 0;
      uint32_t operators = 0;
      std::vector<uint32_t> cuts;
      uint64_t solo_ns = 0;
    };
    std::vector<BucketFacts> buckets;
    std::string structure{};  // digest of the model without its weights; empty: unknown
  };
  // Connects service `service` to model `name`. On an error (another device, an unknown model, another structure, other
  // buckets or numbers of operators, a solo time kTooFast times shorter than the profiled one) the service is predicted
  // by the additive model. A longer solo time is no sign of another model: the GPU may have been busy. Nor are other
  // weights: the structure is a model's operators, shapes and types. It is not compared where one side does not know
  // it.
  Status Connect(ServiceId service, const std::string& name, const ServiceFacts& facts);
  static constexpr double kTooFast = 1.5;
  // Factors on all solo times, those of the additive model included; null: none.
  void SetCorrection(const SoloCorrection* correction) {
    correction_ = correction;
    additive_.SetCorrection(correction);
  }
  // Of a whole pass, uncorrected; 0: unknown.
  uint64_t SoloNs(ServiceId service, uint32_t bucket) const;

  std::string_view name() const override { return "overlap"; }
  Prediction Predict(std::span<const OperatorRange> group) const override;
  void PredictEnds(std::span<const OperatorRange> group, const OperatorRange& range, std::span<const uint32_t> lasts,
                   std::span<Prediction> out) const override;

 private:
  struct Bucket {
    std::vector<float> prefix_us;  // [operators + 1]
    float log2_batch = 0;
    float log2_sequence = 0;
  };
  struct Service {
    uint32_t model = 0;           // of file_.subject.models
    std::vector<Bucket> buckets;  // empty: not connected
  };
  // A group as far as it is known.
  struct Partial {
    HiddenSums sums;
    GroupTimes times;
    uint64_t models = 0;  // bit set
    bool known = true;    // every range is of a connected service
  };

  OverlapModel(PredictorFile file, Mlp mlp);

  // The service of a range that it has, and the range's solo times; nullptr for any other range.
  const Service* Find(const OperatorRange& range, RangeTimes* times) const;
  Prediction PredictAlone(const OperatorRange& range) const;
  void Add(const OperatorRange& range, Partial* partial) const;
  Prediction Finish(const Partial& partial) const;
  Prediction Additive(std::span<const OperatorRange> group) const { return {additive_.PredictNs(group), false}; }

  PredictorFile file_;
  Mlp mlp_;
  std::unordered_set<uint64_t> trained_;  // model bit sets
  std::vector<Service> services_;
  AdditiveModel additive_;
  const SoloCorrection* correction_ = nullptr;
};

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_OVERLAP_MODEL_H_
