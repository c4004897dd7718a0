#include "predictor/train/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <utility>

#include "base/random.h"

namespace abacus {
namespace {

constexpr double kDriftWarning = 0.05;  // between the solo times of joined profiles

// In [0, 1), independent for each `use` of one hash.
double ShareOf(uint64_t hash, uint64_t use) { return UnitOf(SplitMix(hash ^ SplitMix(use))); }
enum HashUse : uint64_t { kHoldout = 1, kValidation, kFold };

std::string BucketText(const BucketProfile& bucket) {
  return bucket.sequence > 0 ? fmt::format("b{} s{}", bucket.batch, bucket.sequence) : fmt::format("b{}", bucket.batch);
}

// Takes over structures and solo times that `subject` lacks, and warns where both have solo times and they differ.
void JoinModels(const ProfileData& other, const std::string& name, ProfileData* subject,
                std::vector<std::string>* warnings) {
  double worst = 0;
  std::string worst_where;
  for (size_t m = 0; m < subject->models.size(); ++m) {
    if (subject->models[m].structure.empty()) subject->models[m].structure = other.models[m].structure;
    for (size_t b = 0; b < subject->models[m].buckets.size(); ++b) {
      BucketProfile& mine = subject->models[m].buckets[b];
      const BucketProfile& theirs = other.models[m].buckets[b];
      if (!theirs.measured()) continue;
      if (!mine.measured()) {
        mine = theirs;
        continue;
      }
      const double drift = std::abs(theirs.whole_us() / mine.whole_us() - 1);
      if (drift > worst) {
        worst = drift;
        worst_where = subject->models[m].name + " " + BucketText(mine);
      }
    }
  }
  if (worst > kDriftWarning) {
    warnings->push_back(
        fmt::format("{}: the solo time of {} differs by {:.0f} % from the first profile's, which is used", name,
                    worst_where, 100 * worst));
  }
}

// A predictor is refused when any solo time is missing, so buckets without groups count too.
Status CheckSoloTimes(const ProfileData& subject) {
  for (const ModelProfile& model : subject.models) {
    for (const BucketProfile& bucket : model.buckets) {
      if (!bucket.measured()) {
        return {StatusCode::kInvalidArgument,
                fmt::format("the solo times of {} {} are missing; go on profiling into the same file until it is done",
                            model.name, BucketText(bucket))};
      }
    }
  }
  return Status::Ok();
}

uint64_t BitsOf(const GroupSample& sample) {
  uint64_t bits = 0;
  for (const ProfiledRange& range : sample.ranges) bits |= uint64_t{1} << range.model;
  return bits;
}

void FillSets(uint32_t min_set_samples, Dataset* dataset) {
  std::map<std::pair<size_t, std::vector<uint32_t>>, std::vector<uint32_t>> rows_of;
  for (uint32_t row = 0; row < dataset->samples.size(); ++row) {
    std::vector<uint32_t> models;
    const uint64_t bits = BitsOf(dataset->samples[row]);
    for (uint32_t m = 0; m < dataset->subject.models.size(); ++m) {
      if ((bits >> m & 1) != 0) models.push_back(m);
    }
    rows_of[{models.size(), models}].push_back(row);
  }
  dataset->set_of.resize(dataset->samples.size());
  for (const auto& [key, rows] : rows_of) {
    ModelSet set;
    set.models = key.second;
    for (const uint32_t m : set.models) set.name += (set.name.empty() ? "" : " + ") + dataset->subject.models[m].name;
    set.samples = rows.size();
    set.trained = rows.size() >= min_set_samples;
    if (!set.trained) {
      dataset->warnings.push_back(
          fmt::format("{} has only {} groups and needs {}: the sum of solo times will predict it", set.name,
                      set.samples, min_set_samples));
    }
    for (const uint32_t row : rows) dataset->set_of[row] = static_cast<uint32_t>(dataset->sets.size());
    dataset->sets.push_back(std::move(set));
  }
}

}  // namespace

Result<Dataset> MakeDataset(std::vector<ProfileData> profiles, std::span<const std::string> names,
                            const DatasetOptions& options) {
  Dataset dataset;
  for (size_t p = 0; p < profiles.size(); ++p) {
    for (const std::string& warning : profiles[p].warnings) dataset.warnings.push_back(warning);
    if (p == 0) continue;
    const Status same = SameSubject(profiles[0], profiles[p]);
    if (!same.ok()) return Error(same.WithContext(names[p] + " cannot be joined with " + names[0]));
    JoinModels(profiles[p], names[p], &profiles[0], &dataset.warnings);
  }
  dataset.subject = profiles[0];
  dataset.subject.groups.clear();
  dataset.subject.clocks.clear();
  dataset.subject.warnings.clear();
  for (size_t p = 1; p < profiles.size(); ++p) dataset.subject.skipped += profiles[p].skipped;
  ABACUS_RETURN_IF_ERROR(CheckSoloTimes(dataset.subject));

  const size_t columns = FeatureCount(dataset.subject.models.size());
  dataset.columns.columns = columns;
  std::vector<float> row(columns);
  for (const ProfileData& profile : profiles) {
    for (const GroupSample& sample : profile.groups) {
      GroupTimes times;
      for (const ProfiledRange& range : sample.ranges) {
        const BucketProfile& bucket = dataset.subject.models[range.model].buckets[range.bucket];
        times.Add(TimesOf(bucket, range.first, range.last).solo_us());
      }
      if (sample.ranges.size() == 1) {
        dataset.alone_errors.push_back(std::abs(static_cast<double>(times.sum_us) / sample.us - 1));
        continue;
      }
      FillColumns(dataset.subject, sample.ranges, row);
      const float target = EncodeTime(sample.us, times);
      const auto finite = [](float value) { return std::isfinite(value); };
      if (!finite(target) || !std::all_of(row.begin(), row.end(), finite)) {
        dataset.warnings.push_back(fmt::format("group {} is left out: its solo times make no sense", sample.index));
        continue;
      }
      dataset.samples.push_back(sample);
      dataset.times.push_back(times);
      dataset.hashes.push_back(SplitMix(SplitMix(SplitMix(options.seed) ^ profile.seed) ^ sample.index));
      dataset.columns.values.insert(dataset.columns.values.end(), row.begin(), row.end());
      dataset.targets.push_back(target);
    }
  }
  const size_t count = dataset.samples.size();
  if (count < kMinSamples) {
    return Error(StatusCode::kInvalidArgument,
                 fmt::format("{} groups of two or more models are too few to train on: {} more are needed", count,
                             kMinSamples - count));
  }
  FillSets(options.min_set_samples, &dataset);
  if (std::none_of(dataset.sets.begin(), dataset.sets.end(), [](const ModelSet& set) { return set.trained; })) {
    uint64_t most = 0;
    for (const ModelSet& set : dataset.sets) most = std::max(most, set.samples);
    return Error(StatusCode::kInvalidArgument,
                 fmt::format("no set of models has the {} groups that it needs: {} more are needed at least",
                             options.min_set_samples, options.min_set_samples - most));
  }
  return dataset;
}

Split HoldoutSplit(const Dataset& dataset, const DatasetOptions& options) {
  Split split;
  for (uint32_t row = 0; row < dataset.samples.size(); ++row) {
    const uint64_t hash = dataset.hashes[row];
    if (dataset.sets[dataset.set_of[row]].trained && ShareOf(hash, kHoldout) < options.holdout) {
      split.test.push_back(row);
    } else {
      (ShareOf(hash, kValidation) < options.validation ? split.validation : split.train).push_back(row);
    }
  }
  return split;
}

Split FoldSplit(const Dataset& dataset, const DatasetOptions& options, uint32_t fold) {
  Split split;
  for (uint32_t row = 0; row < dataset.samples.size(); ++row) {
    const uint64_t hash = dataset.hashes[row];
    const bool trained = dataset.sets[dataset.set_of[row]].trained;
    if (trained && static_cast<uint32_t>(ShareOf(hash, kFold) * options.folds) == fold) {
      split.test.push_back(row);
    } else {
      (ShareOf(hash, kValidation) < options.validation ? split.validation : split.train).push_back(row);
    }
  }
  return split;
}

Matrix MakeUpGroups(const Dataset& dataset, std::span<const uint32_t> rows, size_t count, uint64_t seed) {
  std::vector<std::vector<ProfiledRange>> ranges_of(dataset.subject.models.size());
  for (const uint32_t row : rows) {
    for (const ProfiledRange& range : dataset.samples[row].ranges) ranges_of[range.model].push_back(range);
  }
  std::mt19937_64 random(seed);
  const auto pick = [&random](const auto& from) { return from[random() % from.size()]; };
  Matrix columns;
  columns.columns = dataset.columns.columns;
  columns.values.resize(count * columns.columns);
  for (size_t i = 0; i < count; ++i) {
    std::vector<ProfiledRange> ranges = dataset.samples[pick(rows)].ranges;
    for (ProfiledRange& range : ranges) range = pick(ranges_of[range.model]);
    FillColumns(dataset.subject, ranges, std::span(columns.values).subspan(i * columns.columns, columns.columns));
  }
  return columns;
}

std::string RangesText(const ProfileData& subject, std::span<const ProfiledRange> ranges) {
  std::string text;
  for (const ProfiledRange& range : ranges) {
    const ModelProfile& model = subject.models[range.model];
    text += fmt::format("{}{} {} {}..{}", text.empty() ? "" : " + ", model.name,
                        BucketText(model.buckets[range.bucket]), range.first, range.last);
  }
  return text;
}

uint64_t Fingerprint(const Dataset& dataset) {
  uint64_t hash = SplitMix(dataset.columns.columns);
  const auto add = [&hash](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3;
  };
  add(dataset.hashes.data(), dataset.hashes.size() * sizeof(uint64_t));
  add(dataset.targets.data(), dataset.targets.size() * sizeof(float));
  add(dataset.columns.values.data(), dataset.columns.values.size() * sizeof(float));
  return hash;
}

}  // namespace abacus
