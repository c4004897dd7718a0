#include "worker/cuts/cut_points.h"

#include <algorithm>

namespace abacus {

std::vector<uint32_t> ChooseCuts(std::span<const double> cumulative, size_t max_intervals) {
  const auto operators = static_cast<uint32_t>(cumulative.size() - 1);
  std::vector<uint32_t> cuts;
  if (operators <= max_intervals) {
    for (uint32_t k = 0; k <= operators; ++k) cuts.push_back(k);
    return cuts;
  }
  std::vector<double> time(cumulative.begin(), cumulative.end());
  for (size_t k = 1; k < time.size(); ++k) time[k] = std::max(time[k], time[k - 1]);
  const double start = time.front();
  const double total = time.back() - start;
  cuts.push_back(0);
  for (size_t i = 1; i < max_intervals; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(max_intervals);
    auto cut = static_cast<uint32_t>(share * operators);
    if (total > 0) {
      const double target = start + share * total;
      const auto above = std::lower_bound(time.begin(), time.end(), target);
      cut = static_cast<uint32_t>(above - time.begin());
      if (cut > 0 && target - time[cut - 1] < time[cut] - target) --cut;
    }
    if (cut > cuts.back() && cut < operators) cuts.push_back(cut);
  }
  cuts.push_back(operators);
  return cuts;
}

std::vector<double> InterpolateCumulative(std::span<const uint32_t> positions, std::span<const double> times) {
  std::vector<double> cumulative(positions.back() + 1, times.front());
  for (size_t i = 1; i < positions.size(); ++i) {
    const double step = (times[i] - times[i - 1]) / (positions[i] - positions[i - 1]);
    for (uint32_t k = positions[i - 1] + 1; k <= positions[i]; ++k) {
      cumulative[k] = times[i - 1] + step * (k - positions[i - 1]);
    }
  }
  return cumulative;
}

}  // namespace abacus
