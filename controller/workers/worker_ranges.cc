#include "controller/workers/worker_ranges.h"

#include <algorithm>
#include <functional>
#include <string>

namespace abacus {

Result<std::vector<WorkerRanges>> ReadWorkerRanges(const WorkerSlot& slot, size_t buckets) {
  std::vector<WorkerRanges> ranges;
  for (size_t b = 0; b < buckets; ++b) {
    const RangeTableEntry entry = slot.ranges[b];
    const auto begin = entry.cuts.begin();
    if (entry.cut_count < 2 || entry.cut_count > entry.cuts.size() || entry.cuts[0] != 0 ||
        entry.cuts[entry.cut_count - 1] != entry.operators || entry.solo_ns > kMaxSoloNs ||
        std::adjacent_find(begin, begin + entry.cut_count, std::greater_equal<>()) != begin + entry.cut_count) {
      return Error(StatusCode::kInvalidArgument, "published an impossible range table for bucket " + std::to_string(b));
    }
    ranges.push_back({entry.operators, entry.solo_ns, {begin, begin + entry.cut_count}});
  }
  return ranges;
}

}  // namespace abacus
