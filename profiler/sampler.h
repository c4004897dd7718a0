// Sampler: which groups of ranges are profiled. Group n of a seed is always the same, so an interrupted run goes on
// where it stopped, and two machines profile the same groups.
//
// Groups are drawn as serving forms them (controller/schedule/headroom_policy.h). Models: uniformly. Batches, for the
// whole group one of
//   loaded  kLoadedShare   mostly the largest on all sides: queues are full
//   mixed   kMixedShare    any beside any: a large batch beside a small one
//   light   the rest       mostly the smallest: single queries meet
// and any of the sequences of a batch, each range its own. One job, the most urgent, mostly runs to its end; the others
// to a cut where they take about as long as the longest before them, to their end, or to any cut. Jobs are fresh, or go
// on from any cut.
//
// Long groups cost more of the time that there is and tell no more. So ranges are drawn again, three times at most,
// with a probability that grows with their cost: a group that takes four times as long is half as frequent among its
// kind. Models and kind stay, so no set of models is measured less for being slow.
// Thread rule: pure.
#ifndef ABACUS_PROFILER_SAMPLER_H_
#define ABACUS_PROFILER_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "predictor/profile_data.h"

namespace abacus {

// Share of groups with 2, 3 and 4 ranges; fewer models than ranges: as many as there are.
inline constexpr double kPairShare = 0.56;
inline constexpr double kTripletShare = 0.24;
inline constexpr double kLoadedShare = 0.45;
inline constexpr double kMixedShare = 0.25;

// `subject`: models with solo times. `cuts[model][bucket]`: cut points now. Needs at least two models.
std::vector<ProfiledRange> SampleGroup(const ProfileData& subject,
                                       const std::vector<std::vector<std::vector<uint32_t>>>& cuts, uint64_t seed,
                                       uint64_t index);

}  // namespace abacus

#endif  // ABACUS_PROFILER_SAMPLER_H_
