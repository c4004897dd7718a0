#include "profiler/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"

namespace abacus {
namespace {

class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : state_(seed * kSplitMixStep + stream * 0xd1342543de82ef95) { Unit(); }

  double Unit() {
    const double unit = UnitOf(SplitMix(state_));
    state_ += kSplitMixStep;
    return unit;
  }
  size_t Below(size_t n) { return static_cast<size_t>(Unit() * static_cast<double>(n)); }

 private:
  uint64_t state_;
};

double SoloUs(const BucketProfile& bucket, uint32_t first, uint32_t last) {
  return bucket.PrefixUs(last) - bucket.PrefixUs(first) + bucket.us.front();
}

enum class Load { kLoaded, kMixed, kLight };

// One of the model's buckets.
uint32_t DrawBucket(const ModelProfile& model, Load load, Random* random) {
  std::vector<int64_t> batches;
  for (const BucketProfile& bucket : model.buckets) batches.push_back(bucket.batch);
  std::ranges::sort(batches);
  batches.erase(std::unique(batches.begin(), batches.end()), batches.end());
  const double draw = random->Unit(), which = random->Unit();
  const double share = load == Load::kLoaded ? 1 - draw * draw : load == Load::kLight ? draw * draw * draw : draw;
  const auto count = static_cast<double>(batches.size());
  const int64_t batch = batches[std::min(batches.size() - 1, static_cast<size_t>(share * count))];
  std::vector<uint32_t> buckets;  // one for each sequence
  for (uint32_t b = 0; b < model.buckets.size(); ++b) {
    if (model.buckets[b].batch == batch) buckets.push_back(b);
  }
  return buckets[static_cast<size_t>(which * static_cast<double>(buckets.size()))];
}

// `longest_us`: of the ranges before it; 0: it is the most urgent.
ProfiledRange DrawRange(const ProfileData& subject, const std::vector<std::vector<std::vector<uint32_t>>>& cuts,
                        uint32_t model, Load load, double longest_us, Random* random) {
  constexpr double kFresh = 0.6;
  constexpr double kUrgentToTheEnd = 0.85;            // else it ends anywhere
  constexpr double kMatched = 0.5, kToTheEnd = 0.25;  // of the others; the rest ends anywhere
  ProfiledRange range;
  range.model = model;
  range.bucket = DrawBucket(subject.models[model], load, random);
  const std::vector<uint32_t>& points = cuts[model][range.bucket];
  const BucketProfile& bucket = subject.models[model].buckets[range.bucket];
  const size_t intervals = points.size() - 1;
  // Every draw is made whatever it is used for, so that one range does not shift the others.
  const double fresh = random->Unit(), start = random->Unit(), kind = random->Unit(), end = random->Unit();
  const size_t first = fresh < kFresh ? 0 : static_cast<size_t>(start * static_cast<double>(intervals));
  const bool urgent = longest_us == 0;
  size_t last = intervals;
  if (!urgent && kind < kMatched) {
    const double wanted_us = longest_us * std::exp2(2 * end - 1);
    last = first + 1;
    while (last < intervals && SoloUs(bucket, points[first], points[last]) < wanted_us) ++last;
  } else if (kind >= (urgent ? kUrgentToTheEnd : kMatched + kToTheEnd)) {
    last = first + 1 + static_cast<size_t>(end * static_cast<double>(intervals - first));
  }
  range.first = points[first];
  range.last = points[std::min(last, intervals)];
  return range;
}

double SmallestUs(const ModelProfile& model) {
  return std::ranges::min_element(model.buckets, {}, &BucketProfile::whole_us)->whole_us();
}

}  // namespace

std::vector<ProfiledRange> SampleGroup(const ProfileData& subject,
                                       const std::vector<std::vector<std::vector<uint32_t>>>& cuts, uint64_t seed,
                                       uint64_t index) {
  Random random(seed, index);
  const double size_draw = random.Unit();
  const size_t size = std::min(subject.models.size(), size_t{2} + (size_draw >= kPairShare ? 1 : 0) +
                                                          (size_draw >= kPairShare + kTripletShare ? 1 : 0));
  const double load_draw = random.Unit();
  const Load load = load_draw < kLoadedShare                 ? Load::kLoaded
                    : load_draw < kLoadedShare + kMixedShare ? Load::kMixed
                                                             : Load::kLight;
  std::vector<uint32_t> models(subject.models.size());
  std::iota(models.begin(), models.end(), 0u);
  double cheap_us = 0;  // the same models at their smallest
  for (size_t i = 0; i < size; ++i) {
    std::swap(models[i], models[i + random.Below(models.size() - i)]);
    cheap_us += SmallestUs(subject.models[models[i]]);
  }

  constexpr int kTries = 4;
  std::vector<ProfiledRange> group;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    group.clear();
    double longest_us = 0, sum_us = 0;
    for (size_t i = 0; i < size; ++i) {
      const ProfiledRange range = DrawRange(subject, cuts, models[i], load, longest_us, &random);
      const double us = SoloUs(subject.models[range.model].buckets[range.bucket], range.first, range.last);
      longest_us = std::max(longest_us, us);
      sum_us += us;
      group.push_back(range);
    }
    if (random.Unit() * std::sqrt(sum_us) < std::sqrt(cheap_us)) break;
  }
  return group;
}

}  // namespace abacus
