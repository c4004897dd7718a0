// Sampler: which groups of ranges are profiled. Group n of a seed is always the same, so an interrupted run goes on
// where it stopped, and two machines profile the same groups.
//
// Groups are drawn as serving forms them (controller/schedule/headroom_policy.h): models and buckets uniformly; one
// job, the most urgent, runs to its end; the others run to their end, to a cut where they would take about as long as
// the urgent one, or to any cut. Jobs are fresh or resumed at any cut. Thread rule: pure.
#ifndef ABACUS_PROFILER_SAMPLER_H_
#define ABACUS_PROFILER_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "predictor/profile_data.h"

namespace abacus {

// Share of groups with 2, 3 and 4 ranges; fewer models than ranges: as many as there are.
inline constexpr double kPairShare = 0.56;
inline constexpr double kTripletShare = 0.24;

// `subject`: models with solo times. `cuts[model][bucket]`: cut points now. Needs at least two models.
std::vector<ProfiledRange> SampleGroup(const ProfileData& subject,
                                       const std::vector<std::vector<std::vector<uint32_t>>>& cuts, uint64_t seed,
                                       uint64_t index);

}  // namespace abacus

#endif  // ABACUS_PROFILER_SAMPLER_H_
