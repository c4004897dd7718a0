#include "controller/workers/worker_ranges.h"

#include <string>

namespace abacus {

Result<std::vector<WorkerRanges>> ReadWorkerRanges(const WorkerSlot& slot, size_t buckets) {
  std::vector<WorkerRanges> ranges;
  for (size_t b = 0; b < buckets; ++b) {
    const RangeTableEntry entry = slot.ranges[b];
    if (!IsPossible(entry)) {
      return Error(StatusCode::kInvalidArgument, "published an impossible range table for bucket " + std::to_string(b));
    }
    const auto begin = entry.cuts.begin();
    ranges.push_back({entry.operators, entry.solo_ns, {begin, begin + entry.cut_count}});
  }
  return ranges;
}

}  // namespace abacus
