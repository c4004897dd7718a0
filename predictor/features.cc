#include "predictor/features.h"

#include <algorithm>
#include <cmath>

namespace abacus {
namespace {

constexpr float kLeastUs = 0.1f;  // keeps logarithms finite for ranges that take no time

}  // namespace

RangeTimes TimesOf(const BucketProfile& bucket, uint32_t first, uint32_t last) {
  RangeTimes times;
  times.first_us = static_cast<float>(bucket.PrefixUs(first) - bucket.us.front());
  times.last_us = static_cast<float>(bucket.PrefixUs(last));
  times.whole_us = static_cast<float>(bucket.whole_us());
  times.log2_batch = std::log2(static_cast<float>(bucket.batch));
  times.log2_sequence = bucket.sequence > 0 ? std::log2(static_cast<float>(bucket.sequence)) : 0.0f;
  return times;
}

void FillRangeColumns(const RangeTimes& range, std::span<float, kRangeColumns> columns) {
  const float start = range.first_us / range.whole_us, end = range.last_us / range.whole_us;
  columns[0] = 1;
  columns[1] = std::log(std::max(range.solo_us(), kLeastUs));
  columns[2] = range.log2_batch;
  columns[3] = range.log2_sequence;
  columns[4] = start;
  columns[5] = end;
  for (size_t i = 0; i < kCoverageColumns; ++i) {
    // In eighths: how much of [i, i + 1) lies in the range.
    const float low = std::max(start * kCoverageColumns, static_cast<float>(i));
    const float high = std::min(end * kCoverageColumns, static_cast<float>(i + 1));
    columns[6 + i] = std::max(high - low, 0.0f);
  }
}

void GroupTimes::Add(float solo_us) {
  solo_us = std::max(solo_us, kLeastUs);
  sum_us += solo_us;
  second_us = std::max(second_us, std::min(solo_us, max_us));
  max_us = std::max(max_us, solo_us);
  ++ranges;
}

void FillGroupColumns(const GroupTimes& group, std::span<float, kGroupColumns> columns) {
  columns[0] = std::log(group.sum_us);
  columns[1] = std::log(group.max_us);
  columns[2] = group.max_us / group.sum_us;
  columns[3] = group.second_us / group.max_us;
  columns[4] = static_cast<float>(group.ranges) - 2;
}

void FillColumns(const ProfileData& profile, std::span<const ProfiledRange> ranges, std::span<float> columns) {
  std::fill(columns.begin(), columns.end(), 0.0f);
  GroupTimes group;
  for (const ProfiledRange& range : ranges) {
    const RangeTimes times = TimesOf(profile.models[range.model].buckets[range.bucket], range.first, range.last);
    FillRangeColumns(times, columns.subspan(range.model * kRangeColumns).first<kRangeColumns>());
    group.Add(times.solo_us());
  }
  FillGroupColumns(group, columns.last<kGroupColumns>());
}

float EncodeTime(double group_us, const GroupTimes& group) {
  return static_cast<float>(std::log(group_us / static_cast<double>(group.sum_us)));
}

double DecodeTime(float y, const GroupTimes& group) {
  const double sum_us = group.sum_us;
  if (std::isnan(y)) return kHighestShare * sum_us;
  return std::clamp(sum_us * std::exp(static_cast<double>(y)), kLowestShare * static_cast<double>(group.max_us),
                    kHighestShare * sum_us);
}

}  // namespace abacus
