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
  const std::vector<std::array<uint32_t, 4>> golden = {{0, 0, 0, 20}, {1, 0, 15, 30}};
  EXPECT_EQ(Plain(SampleGroup(subject.data, subject.cuts, 1, 0)), golden);
}

TEST(Sampler, RangesAreLegal) {
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
    }
  }
}

// Four models with batches 1 to 64, 20 us a row and 100 us a pass, the last with two sequences.
Subject Batches() {
  Subject subject;
  for (uint32_t m = 0; m < 4; ++m) {
    ModelProfile model{"m" + std::to_string(m), {}};
    auto& cuts = subject.cuts.emplace_back();
    for (const int64_t batch : {1, 2, 4, 8, 16, 32, 64}) {
      for (const int64_t sequence : {16, 64}) {
        if (m < 3 && sequence == 64) continue;
        BucketProfile bucket{batch, m < 3 ? 0 : sequence, 320, {0}, {5}};
        for (uint32_t i = 1; i <= 64; ++i) {
          bucket.operators_at.push_back(i * 5);
          bucket.us.push_back(5 + (100.0 + 20.0 * static_cast<double>(batch)) * i / 64);
        }
        cuts.push_back(bucket.operators_at);
        model.buckets.push_back(std::move(bucket));
      }
    }
    subject.data.models.push_back(std::move(model));
  }
  return subject;
}

TEST(Sampler, SharesAreAsTheHeaderSays) {
  constexpr uint64_t kGroups = 4000;
  const Subject subject = Batches();
  std::map<size_t, int> sizes;
  std::map<int64_t, int> batches, sequences;
  std::map<uint32_t, int> models;
  int fresh = 0, ranges = 0, others = 0, to_the_end = 0, matched = 0, urgent_to_the_end = 0;
  int both_small = 0, both_large = 0, unequal = 0;
  for (uint64_t index = 0; index < kGroups; ++index) {
    const std::vector<ProfiledRange> group = SampleGroup(subject.data, subject.cuts, 1, index);
    ++sizes[group.size()];
    const auto bucket = [&](const ProfiledRange& r) { return subject.data.models[r.model].buckets[r.bucket]; };
    double longest_us = 0;
    for (size_t i = 0; i < group.size(); ++i) {
      const ProfiledRange& range = group[i];
      ++ranges, ++models[range.model], ++batches[bucket(range).batch];
      if (range.model == 3) ++sequences[bucket(range).sequence];
      fresh += range.first == 0 ? 1 : 0;
      const bool end = range.last == bucket(range).operators;
      if (i > 0) {
        ++others;
        to_the_end += end ? 1 : 0;
        const double share = SoloUs(bucket(range), range) / longest_us;
        matched += share > 0.45 && share < 2.2 ? 1 : 0;
      } else {
        urgent_to_the_end += end ? 1 : 0;
      }
      longest_us = std::max(longest_us, SoloUs(bucket(range), range));
    }
    const int64_t a = bucket(group[0]).batch, b = bucket(group[1]).batch;
    both_small += std::max(a, b) <= 2 ? 1 : 0;
    both_large += std::min(a, b) >= 16 ? 1 : 0;
    unequal += std::max(a, b) >= 8 * std::min(a, b) ? 1 : 0;
  }
  const auto share = [](int count, auto of) { return static_cast<double>(count) / static_cast<double>(of); };
  EXPECT_EQ(sizes.size(), 3u);
  EXPECT_NEAR(share(sizes[2], kGroups), kPairShare, 0.03);
  EXPECT_NEAR(share(sizes[3], kGroups), kTripletShare, 0.03);
  EXPECT_NEAR(share(sizes[4], kGroups), 1 - kPairShare - kTripletShare, 0.03);
  for (uint32_t m = 0; m < 4; ++m) EXPECT_NEAR(share(models[m], ranges), 0.25, 0.02);
  EXPECT_NEAR(share(sequences[16], models[3]), 0.5, 0.04);
  EXPECT_EQ(batches.size(), 7u);
  for (const auto& [batch, count] : batches) EXPECT_GT(share(count, ranges), 0.07) << batch;
  EXPECT_GT(batches[1], batches[8]);
  EXPECT_GT(batches[64], batches[8]);
  EXPECT_GT(share(both_small, kGroups), 0.1);
  EXPECT_GT(share(both_large, kGroups), 0.12);
  EXPECT_GT(share(unequal, kGroups), 0.15);
  EXPECT_NEAR(share(urgent_to_the_end, kGroups), 0.86, 0.04);
  EXPECT_GT(share(fresh, ranges), 0.55);
  EXPECT_LT(share(fresh, ranges), 0.8);
  EXPECT_GT(share(to_the_end, others), 0.25);
  EXPECT_LT(share(to_the_end, others), 0.75);
  EXPECT_GT(share(matched, others), 0.5);
}

TEST(Sampler, LongGroupsAreRarerButNoModelsAre) {
  // The same, with two models ten times as slow: they are slow at every batch, which is no reason to leave them out.
  const Subject fast = Batches();
  Subject slow = Batches();
  for (const uint32_t m : {2, 3}) {
    for (BucketProfile& bucket : slow.data.models[m].buckets) {
      for (double& us : bucket.us) us *= 10;
    }
  }
  std::map<uint32_t, int> models;
  double large = 0, large_whole = 0;
  int ranges = 0;
  for (uint64_t index = 0; index < 4000; ++index) {
    for (const ProfiledRange& range : SampleGroup(slow.data, slow.cuts, 1, index)) ++models[range.model], ++ranges;
    for (const ProfiledRange& range : SampleGroup(fast.data, fast.cuts, 1, index)) {
      const BucketProfile& bucket = fast.data.models[range.model].buckets[range.bucket];
      if (bucket.batch != 64) continue;
      ++large;
      large_whole += range.first == 0 && range.last == bucket.operators ? 1 : 0;
    }
  }
  for (uint32_t m = 0; m < 4; ++m) EXPECT_NEAR(models[m] / static_cast<double>(ranges), 0.25, 0.02);
  EXPECT_GT(large_whole / large, 0.15);
  EXPECT_LT(large_whole / large, 0.27) << "0.31 without weighing";
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
