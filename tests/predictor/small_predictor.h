// Small profiles and predictors with made-up numbers, for tests.
#ifndef ABACUS_TESTS_PREDICTOR_SMALL_PREDICTOR_H_
#define ABACUS_TESTS_PREDICTOR_SMALL_PREDICTOR_H_

#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "predictor/features.h"
#include "predictor/overlap_model.h"
#include "predictor/predictor_file.h"

namespace abacus::test {

// Three models: "a" with two buckets, "b" with a sequence, "c"; solo times easy to check by hand.
inline ProfileData SmallProfile() {
  ProfileData data;
  data.device = "Test GPU";
  data.driver = "550.1";
  data.libraries = "cuda 12.8";
  data.seed = 7;
  data.models.push_back({"a", {{1, 0, 8, {0, 2, 4, 8}, {10, 60, 110, 210}}, {4, 0, 8, {0, 8}, {10, 410}}}});
  data.models.push_back({"b", {{2, 16, 10, {0, 5, 10}, {20, 120, 420}}}});
  data.models.push_back({"c", {{8, 0, 4, {0, 1, 2, 3, 4}, {5, 10, 20, 40, 80}}}});
  return data;
}

inline std::vector<MlpLayer> RandomLayers(size_t inputs, size_t hidden, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<MlpLayer> layers;
  for (size_t i = 0; i <= hidden; ++i) {
    MlpLayer layer;
    layer.inputs = i == 0 ? inputs : kHiddenWidth;
    layer.outputs = i == hidden ? 1 : kHiddenWidth;
    std::normal_distribution<float> weight(0, 1 / std::sqrt(static_cast<float>(layer.inputs)));
    for (size_t n = 0; n < layer.inputs * layer.outputs; ++n) layer.weights.push_back(weight(random));
    for (size_t n = 0; n < layer.outputs; ++n) layer.bias.push_back(weight(random));
    layers.push_back(std::move(layer));
  }
  return layers;
}

// `hidden`: number of hidden layers.
inline PredictorFile PredictorOf(ProfileData subject, std::vector<std::vector<uint32_t>> sets, size_t hidden = 2) {
  PredictorFile file;
  file.layers = RandomLayers(FeatureCount(subject.models.size()), hidden, 1);
  file.subject = std::move(subject);
  for (std::vector<uint32_t>& set : sets) file.trained.push_back({std::move(set), 100, 0.0123});
  file.samples = 300;
  file.mape = 0.0456;
  for (int i = 0; i <= 100; ++i) file.residuals.push_back(0.001 * i - 0.05);
  return file;
}

// Trained on {a, b}, {a, c} and {a, b, c}, not on {b, c}.
inline PredictorFile SmallPredictor() { return PredictorOf(SmallProfile(), {{0, 1}, {0, 2}, {0, 1, 2}}); }

// What a worker would say that runs `model` exactly as it was profiled.
inline OverlapModel::ServiceFacts FactsOf(const ProfileData& subject, const ModelProfile& model) {
  OverlapModel::ServiceFacts facts{subject.device, subject.libraries, {}};
  for (const BucketProfile& bucket : model.buckets) {
    facts.buckets.push_back({bucket.batch, bucket.sequence, bucket.operators, bucket.operators_at,
                             static_cast<uint64_t>(std::lround(bucket.whole_us() * 1e3))});
  }
  return facts;
}

}  // namespace abacus::test

#endif  // ABACUS_TESTS_PREDICTOR_SMALL_PREDICTOR_H_
