// Any bytes as a profile: an error that names file and line, or data whose groups all fit their models; never a crash.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "predictor/features.h"
#include "predictor/profile_data.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto profile = abacus::ParseProfile({reinterpret_cast<const char*>(data), size}, "fuzz.profile");
  if (!profile) {
    if (!profile.error().message().starts_with("fuzz.profile:")) std::abort();
    return 0;
  }
  if (!abacus::SameSubject(*profile, *profile).ok() || profile->warnings.size() > 21) std::abort();
  for (const abacus::GroupSample& group : profile->groups) {
    if (group.index >= profile->next_index() || group.ranges.empty() || !(group.us > 0)) std::abort();
    bool measured = true;
    for (const abacus::ProfiledRange& range : group.ranges) {
      const abacus::BucketProfile& bucket = profile->models.at(range.model).buckets.at(range.bucket);
      if (range.first >= range.last || range.last > bucket.operators) std::abort();
      measured = measured && bucket.measured();
    }
    if (!measured) continue;
    std::vector<float> columns(abacus::FeatureCount(profile->models.size()));
    abacus::FillColumns(*profile, group.ranges, columns);
    for (const float x : columns) {
      if (!std::isfinite(x)) std::abort();
    }
  }
  return 0;
}
