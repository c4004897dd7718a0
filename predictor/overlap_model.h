// OverlapModel: the trained, overlap-aware latency predictor behind the LatencyModel interface.
//
// One range alone: its solo time, read from the profile. Several ranges: the network. A set of models that it was not
// trained on, or a bucket outside of what was profiled: the additive model, with Prediction::trained false.
//
// A service is connected to the model of the same name once its worker says which buckets it has and how many operators
// each. Cut points may differ from those of profiling: the solo time of any prefix is read between the measured points.
// So may the buckets (bucket_match.h): a group with a bucket that lies between profiled ones is predicted for these,
// with the same share of the pass, and in between. With several such ranges, what each one's weights move the
// prediction by is added up, from where all of them are at their smallest.
//
// Thread rule, allocation: as LatencyModel; Connect from one thread while nobody predicts. Ownership: borrows the
// correction.
#ifndef ABACUS_PREDICTOR_OVERLAP_MODEL_H_
#define ABACUS_PREDICTOR_OVERLAP_MODEL_H_

#include <array>
#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "predictor/additive_model.h"
#include "predictor/bucket_match.h"
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
    std::vector<BucketFacts> buckets;
    std::string structure{};  // digest of the model without its weights; empty: unknown
  };
  // Connects service `service` to model `name`. On an error (another device, an unknown model, another structure, other
  // numbers of operators, a solo time kTooFast times shorter than the profiled one) the service is predicted by the
  // additive model. Other weights are no error: the structure is a model's operators, shapes and types. It is not
  // compared where one side does not know it.
  Status Connect(ServiceId service, const std::string& name, const ServiceFacts& facts);
  // What to say of the buckets of a connected service that were not profiled, each once.
  const std::vector<std::string>& notes(ServiceId service) const { return services_[service.value()].notes; }
  // Factors on all solo times, those of the additive model included; null: none.
  void SetCorrection(const SoloCorrection* correction) {
    correction_ = correction;
    additive_.SetCorrection(correction);
  }
  // Of a whole pass, uncorrected; 0: unknown.
  uint64_t SoloNs(ServiceId service, uint32_t bucket) const;

  std::string_view name() const override { return "overlap"; }
  Prediction Predict(std::span<const OperatorRange> group) const override;
  void PredictChoices(std::span<const OperatorRange> group, std::span<const OperatorRange> choices,
                      std::span<Prediction> out) const override;

 private:
  // Of a profiled bucket, as features see it.
  struct Corner {
    float round_us = 0;  // what a round costs, in every measured time
    float pass_us = 0;   // of the whole model beside that
    float log2_batch = 0;
    float log2_sequence = 0;
    float weight = 1;
  };
  struct Bucket {
    std::vector<float> shares;                                     // [operators + 1] of pass_us
    boost::container::static_vector<Corner, kMaxCorners> corners;  // itself, or those that it lies between
  };
  struct Service {
    uint32_t model = 0;           // of file_.subject.models
    std::vector<Bucket> buckets;  // empty: not connected
    std::vector<std::string> notes{};
  };
  // A group as far as it is known; its ranges' share of the network's first layer is kept beside it.
  struct Partial {
    GroupTimes times;
    uint64_t models = 0;  // bit set
    bool known = true;    // every range is of a connected service
    bool mixed = false;   // at least one lies between profiled buckets
  };

  OverlapModel(PredictorFile file, Mlp mlp);

  // The bucket of a range that it has, connected and within what was profiled; nullptr for any other range.
  const Bucket* Find(const OperatorRange& range) const;
  // Its solo times as they would be at a corner.
  RangeTimes TimesAt(const OperatorRange& range, const Bucket& bucket, const Corner& corner) const;
  Prediction PredictAlone(const OperatorRange& range) const;
  // `corner`: of its bucket, or the last one where it has fewer.
  void Add(const OperatorRange& range, size_t corner, Partial* partial, HiddenSums* sums) const;
  void AddGroup(const GroupTimes& times, HiddenSums* sums) const;
  // Of a group that the network is trained for, with ranges between profiled buckets.
  Prediction PredictMixed(std::span<const OperatorRange> group) const;
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
