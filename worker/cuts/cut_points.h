// Where a model may be cut: choosing at most kMaxCuts intervals about equally long in measured time.
//
// Thread rule: pure functions. Times are in any one unit.
#ifndef ABACUS_WORKER_CUTS_CUT_POINTS_H_
#define ABACUS_WORKER_CUTS_CUT_POINTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace abacus {

// `cumulative[k]` is the time that operators [0, k) take; it has one entry more than there are operators and is first
// made non-decreasing (a measured prefix can come out shorter than a shorter one). Returns ascending cut points from 0
// to the number of operators. With no more operators than `max_intervals` every operator boundary is a cut point, so
// the choice does not depend on the timing; otherwise each cut is the boundary nearest to its share of the total.
std::vector<uint32_t> ChooseCuts(std::span<const double> cumulative, size_t max_intervals);

// Spreads prefix times measured at some positions over all of them: `positions` ascending, first 0 and last the number
// of operators, `times` of the same size. The result has one entry for each operator boundary.
std::vector<double> InterpolateCumulative(std::span<const uint32_t> positions, std::span<const double> times);

}  // namespace abacus

#endif  // ABACUS_WORKER_CUTS_CUT_POINTS_H_
