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

}  // namespace

std::vector<ProfiledRange> SampleGroup(const ProfileData& subject,
                                       const std::vector<std::vector<std::vector<uint32_t>>>& cuts, uint64_t seed,
                                       uint64_t index) {
  Random random(seed, index);
  const double size_draw = random.Unit();
  const size_t size = std::min(subject.models.size(), size_t{2} + (size_draw >= kPairShare ? 1 : 0) +
                                                          (size_draw >= kPairShare + kTripletShare ? 1 : 0));
  std::vector<uint32_t> models(subject.models.size());
  std::iota(models.begin(), models.end(), 0u);
  for (size_t i = 0; i < size; ++i) std::swap(models[i], models[i + random.Below(models.size() - i)]);

  constexpr double kFresh = 0.6;
  constexpr double kToTheEnd = 0.3, kMatched = 0.4;  // of the others; the rest ends anywhere
  std::vector<ProfiledRange> group;
  double urgent_us = 0;
  for (size_t i = 0; i < size; ++i) {
    ProfiledRange range;
    range.model = models[i];
    range.bucket = static_cast<uint32_t>(random.Below(subject.models[range.model].buckets.size()));
    const std::vector<uint32_t>& points = cuts[range.model][range.bucket];
    const BucketProfile& bucket = subject.models[range.model].buckets[range.bucket];
    const size_t intervals = points.size() - 1;
    // Every draw is made whatever it is used for, so that one range does not shift the others.
    const double fresh = random.Unit(), start = random.Unit(), kind = random.Unit(), end = random.Unit();
    const size_t first = fresh < kFresh ? 0 : static_cast<size_t>(start * static_cast<double>(intervals));
    size_t last = intervals;
    if (i > 0 && kind >= kToTheEnd + kMatched) {
      last = first + 1 + static_cast<size_t>(end * static_cast<double>(intervals - first));
    } else if (i > 0 && kind >= kToTheEnd) {
      const double wanted_us = urgent_us * std::exp2(2 * end - 1.2);  // 0.44 to 1.74 of it
      last = first + 1;
      while (last < intervals && SoloUs(bucket, points[first], points[last]) < wanted_us) ++last;
    }
    range.first = points[first];
    range.last = points[std::min(last, intervals)];
    if (i == 0) urgent_us = SoloUs(bucket, range.first, range.last);
    group.push_back(range);
  }
  return group;
}

}  // namespace abacus
