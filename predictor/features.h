// The one owner of the feature columns: what the trained predictor sees of a group of ranges, and what it says.
//
// A group has at most one range per model. The columns are
//
//   for each model of the predictor, in its order:  kRangeColumns, all 0 when the model is not in the group
//   for the group:                                   kGroupColumns
//
// Range columns describe the range alone, so the first layer's share of a range does not depend on the others:
//   0      1
//   1      ln(solo us)
//   2      log2(batch)
//   3      log2(sequence length), 0 without
//   4, 5   where it starts and ends, as shares of the model's solo time
//   6-13   how much of each eighth of the model's solo time it covers, 0 to 1
// Group columns, of the solo times d_i:
//   0      ln(sum d)      1  ln(max d)      2  max d / sum d      3  second largest d / max d      4  ranges - 2
//
// What the predictor says is y = ln(group time / sum d): 0 when overlap gains nothing, -ln(n) when n equal ranges
// overlap fully. Decoding bounds it by kLowestShare of the longest range and kHighestShare of the sum, so a network led
// astray cannot promise what no GPU does.
//
// Thread rule: pure functions.
#ifndef ABACUS_PREDICTOR_FEATURES_H_
#define ABACUS_PREDICTOR_FEATURES_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "predictor/profile_data.h"

namespace abacus {

inline constexpr size_t kCoverageColumns = 8;
inline constexpr size_t kRangeColumns = 6 + kCoverageColumns;
inline constexpr size_t kGroupColumns = 5;
inline constexpr uint32_t kFeatureSchema = 1;  // changes with the meaning of any column
inline constexpr double kLowestShare = 0.8;
inline constexpr double kHighestShare = 1.5;

inline constexpr size_t FeatureCount(size_t models) { return models * kRangeColumns + kGroupColumns; }

// Solo times in microseconds at this batch and sequence: of the prefix [0, last), of the whole model, and of the work
// before `first`, without the cost of a round that every measured time holds (the time of the empty prefix).
struct RangeTimes {
  float first_us = 0;
  float last_us = 0;
  float whole_us = 0;
  float log2_batch = 0;
  float log2_sequence = 0;
  float solo_us() const { return last_us - first_us; }
};
RangeTimes TimesOf(const BucketProfile& bucket, uint32_t first, uint32_t last);

void FillRangeColumns(const RangeTimes& range, std::span<float, kRangeColumns> columns);

// Sums over the ranges of a group, built up one range at a time.
struct GroupTimes {
  float sum_us = 0;
  float max_us = 0;
  float second_us = 0;
  uint32_t ranges = 0;
  void Add(float solo_us);
};
void FillGroupColumns(const GroupTimes& group, std::span<float, kGroupColumns> columns);

// All columns of one sample. `columns` has FeatureCount(profile.models.size()) elements.
void FillColumns(const ProfileData& profile, std::span<const ProfiledRange> ranges, std::span<float> columns);

float EncodeTime(double group_us, const GroupTimes& group);
double DecodeTime(float y, const GroupTimes& group);  // microseconds

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_FEATURES_H_
