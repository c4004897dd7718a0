// Dataset: the groups of one or several profiles as columns and targets, and which of them serve for what.
//
// A sample's part in training follows from a hash of (seed, seed of its profile, its index): it stays on the same side
// whatever is measured later. Groups of one range are left out; their time is the solo time.
// Thread rule: plain values; const after MakeDataset.
#ifndef ABACUS_PREDICTOR_TRAIN_DATASET_H_
#define ABACUS_PREDICTOR_TRAIN_DATASET_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "predictor/features.h"
#include "predictor/profile_data.h"

namespace abacus {

struct DatasetOptions {
  uint64_t seed = 1;
  double holdout = 0.15;     // share that only the reported error sees
  double validation = 0.08;  // share of the others that picks the best epoch
  uint32_t folds = 5;
  uint32_t min_set_samples = 20;  // a set of models with fewer is not predicted by the network
};
inline constexpr size_t kMinSamples = 200;

// Models that occur together.
struct ModelSet {
  std::vector<uint32_t> models;  // ascending
  std::string name;              // "bert + vgg19"
  uint64_t samples = 0;
  bool trained = false;  // has enough samples; else they serve for training only
};

// Row-major, one row per sample.
struct Matrix {
  size_t columns = 0;
  std::vector<float> values;
  size_t rows() const { return columns == 0 ? 0 : values.size() / columns; }
  std::span<const float> row(size_t i) const { return std::span(values).subspan(i * columns, columns); }
};

struct Dataset {
  ProfileData subject;  // without groups
  std::vector<GroupSample> samples;
  std::vector<GroupTimes> times;
  std::vector<uint32_t> set_of;  // of sets
  std::vector<uint64_t> hashes;
  std::vector<ModelSet> sets;  // by size, then by models
  Matrix columns;
  std::vector<float> targets;  // EncodeTime

  std::vector<double> alone_errors;  // of groups of one range: |solo time / measured - 1|
  std::vector<std::string> warnings;
};

// Joins profiles and checks that there is enough to train on. `names` are for messages, one per profile.
Result<Dataset> MakeDataset(std::vector<ProfileData> profiles, std::span<const std::string> names,
                            const DatasetOptions& options);

// Rows of a dataset; disjoint.
struct Split {
  std::vector<uint32_t> train;
  std::vector<uint32_t> validation;
  std::vector<uint32_t> test;
};
Split HoldoutSplit(const Dataset& dataset, const DatasetOptions& options);
// Fold `fold` of `options.folds` over all samples, those that are held out included.
Split FoldSplit(const Dataset& dataset, const DatasetOptions& options, uint32_t fold);

// Columns of `count` groups that nobody measured: models that occur together in `rows`, each with a range that occurs
// in `rows`, all equally likely.
Matrix MakeUpGroups(const Dataset& dataset, std::span<const uint32_t> rows, size_t count, uint64_t seed);

// "bert b4 s64 0..95 + vgg19 b8 12..40"
std::string RangesText(const ProfileData& subject, std::span<const ProfiledRange> ranges);

// Changes when any column, target or hash does.
uint64_t Fingerprint(const Dataset& dataset);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_TRAIN_DATASET_H_
