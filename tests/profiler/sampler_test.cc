#include "profiler/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace abacus {
namespace {

using Cuts = std::vector<std::vector<std::vector<uint32_t>>>;

struct Subject {
  ProfileData data;
  Cuts cuts;
};

// `models` models with 1, 2, 3, .. buckets; the last bucket of the first has a single interval.
Subject Models(uint32_t models) {
  Subject subject;
  for (uint32_t m = 0; m < models; ++m) {
    ModelProfile model{"m" + std::to_string(m), {}};
    auto& cuts = subject.cuts.emplace_back();
    for (uint32_t b = 0; b <= m; ++b) {
      const uint32_t operators = 20 + 10 * m;
      BucketProfile bucket{int64_t{1} << b, 0, operators, {0}, {5}};
      const uint32_t intervals = m == 0 ? 1 : 10;
      for (uint32_t i = 1; i <= intervals; ++i) {
        bucket.operators_at.push_back(i * operators / intervals);
        bucket.us.push_back(5 + 100.0 * (m + b + 1) * i / intervals);
      }
      cuts.push_back(bucket.operators_at);
      model.buckets.push_back(std::move(bucket));
    }
    subject.data.models.push_back(std::move(model));
  }
  return subject;
}

std::vector<std::array<uint32_t, 4>> Plain(const std::vector<ProfiledRange>& group) {
  std::vector<std::array<uint32_t, 4>> plain;
  for (const ProfiledRange& r : group) plain.push_back({r.model, r.bucket, r.first, r.last});
  return plain;
}

double SoloUs(const BucketProfile& bucket, const ProfiledRange& range) {
  return bucket.PrefixUs(range.last) - bucket.PrefixUs(range.first) + bucket.us.front();
}

TEST(Sampler, AGroupDependsOnSeedAndIndexAlone) {
  const Subject subject = Models(4);
  std::set<std::vector<std::array<uint32_t, 4>>> different;
  for (uint64_t index = 0; index < 200; ++index) {
    const auto group = Plain(SampleGroup(subject.data, subject.cuts, 7, index));
    EXPECT_EQ(group, Plain(SampleGroup(subject.data, subject.cuts, 7, index)));
    different.insert(group);
    different.insert(Plain(SampleGroup(subject.data, subject.cuts, 8, index)));
  }
  EXPECT_GT(different.size(), 340u);
  // The same on every machine and in every version: profiles are continued by index.
  const std::vector<std::array<uint32_t, 4>> golden = {{3, 1, 0, 50}, {1, 0, 15, 30}};
  EXPECT_EQ(Plain(SampleGroup(subject.data, subject.cuts, 1, 0)), golden);
}

TEST(Sampler, RangesAreLegalAndTheFirstRunsToItsEnd) {
  for (const uint32_t models : {2u, 3u, 5u}) {
    const Subject subject = Models(models);
    for (uint64_t index = 0; index < 2000; ++index) {
      const std::vector<ProfiledRange> group = SampleGroup(subject.data, subject.cuts, 1, index);
      std::set<uint32_t> seen;
      for (const ProfiledRange& range : group) {
        ASSERT_LT(range.model, models);
        EXPECT_TRUE(seen.insert(range.model).second) << "two ranges of one model";
        ASSERT_LT(range.bucket, subject.cuts[range.model].size());
        const std::vector<uint32_t>& cuts = subject.cuts[range.model][range.bucket];
        EXPECT_LT(range.first, range.last);
        EXPECT_TRUE(std::binary_search(cuts.begin(), cuts.end(), range.first));
        EXPECT_TRUE(std::binary_search(cuts.begin(), cuts.end(), range.last));
      }
      EXPECT_EQ(group[0].last, subject.data.models[group[0].model].buckets[group[0].bucket].operators);
    }
  }
}

TEST(Sampler, SharesAreAsTheHeaderSays) {
  const Subject subject = Models(5);
  std::map<size_t, int> sizes;
  std::map<std::pair<uint32_t, uint32_t>, int> buckets;
  std::map<uint32_t, int> models, urgent;
  int fresh = 0, ranges = 0, others = 0, to_the_end = 0, matched = 0;
  for (uint64_t index = 0; index < 2000; ++index) {
    const std::vector<ProfiledRange> group = SampleGroup(subject.data, subject.cuts, 1, index);
    ++sizes[group.size()];
    ++urgent[group[0].model];
    const auto bucket = [&](const ProfiledRange& r) { return subject.data.models[r.model].buckets[r.bucket]; };
    const double urgent_us = SoloUs(bucket(group[0]), group[0]);
    for (size_t i = 0; i < group.size(); ++i) {
      const ProfiledRange& range = group[i];
      ++ranges, ++models[range.model], ++buckets[{range.model, range.bucket}];
      fresh += range.first == 0 ? 1 : 0;
      if (i == 0) continue;
      ++others;
      to_the_end += range.last == bucket(range).operators ? 1 : 0;
      const double share = SoloUs(bucket(range), range) / urgent_us;
      matched += share > 0.4 && share < 2 ? 1 : 0;
    }
  }
  EXPECT_EQ(sizes.size(), 3u);
  EXPECT_NEAR(sizes[2] / 2000.0, kPairShare, 0.04);
  EXPECT_NEAR(sizes[3] / 2000.0, kTripletShare, 0.04);
  EXPECT_NEAR(sizes[4] / 2000.0, 1 - kPairShare - kTripletShare, 0.04);
  EXPECT_EQ(buckets.size(), 1u + 2 + 3 + 4 + 5) << "all occur";
  for (uint32_t m = 0; m < 5; ++m) {
    EXPECT_NEAR(models[m] / static_cast<double>(ranges), 0.2, 0.03);
    EXPECT_NEAR(urgent[m] / 2000.0, 0.2, 0.04);
    for (uint32_t b = 0; b <= m; ++b) {
      EXPECT_NEAR((buckets[{m, b}]) / static_cast<double>(models[m]), 1.0 / (m + 1), 0.06);
    }
  }
  EXPECT_GT(fresh / static_cast<double>(ranges), 0.55);
  EXPECT_LT(fresh / static_cast<double>(ranges), 0.8);
  EXPECT_GT(to_the_end / static_cast<double>(others), 0.3);
  EXPECT_LT(to_the_end / static_cast<double>(others), 0.8);
  EXPECT_GT(matched / static_cast<double>(others), 0.4);
}

TEST(Sampler, TwoModelsMakePairsOnly) {
  const Subject subject = Models(2);
  for (uint64_t index = 0; index < 500; ++index) {
    EXPECT_EQ(SampleGroup(subject.data, subject.cuts, 3, index).size(), 2u);
  }
  const Subject three = Models(3);
  for (uint64_t index = 0; index < 500; ++index) {
    EXPECT_LE(SampleGroup(three.data, three.cuts, 3, index).size(), 3u);
  }
}

TEST(Sampler, CutsMayDifferFromTheMeasuredOnes) {
  Subject subject = Models(3);
  for (auto& model : subject.cuts) {
    for (auto& cuts : model) cuts = {0, 7, 13, cuts.back()};
  }
  for (uint64_t index = 0; index < 500; ++index) {
    for (const ProfiledRange& range : SampleGroup(subject.data, subject.cuts, 3, index)) {
      const std::vector<uint32_t>& cuts = subject.cuts[range.model][range.bucket];
      EXPECT_TRUE(std::binary_search(cuts.begin(), cuts.end(), range.first));
      EXPECT_TRUE(std::binary_search(cuts.begin(), cuts.end(), range.last));
    }
  }
}

}  // namespace
}  // namespace abacus
