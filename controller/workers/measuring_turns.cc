#include "controller/workers/measuring_turns.h"

#include <algorithm>

namespace abacus {

std::vector<WorkerRef> MeasuringTurns::Begin(std::span<const Loading> loading, uint64_t now_ns) {
  std::erase_if(entries_, [&](const Entry& entry) {
    return std::ranges::none_of(loading, [&](const Loading& process) { return process.worker == entry.worker; });
  });
  for (const Loading& process : loading) {
    const auto known = [&](const Entry& entry) { return entry.worker == process.worker; };
    if (process.ready && std::ranges::none_of(entries_, known)) {
      entries_.push_back({process.worker, process.device, now_ns});
    }
  }
  std::vector<WorkerRef> begun;
  for (Entry& entry : entries_) {
    if (Measures(entry.device)) continue;
    if (AnyoneLoads(loading, entry.device) && now_ns < entry.since_ns + kPatienceNs) continue;
    entry.measuring = true;
    begun.push_back(entry.worker);
  }
  return begun;
}

bool MeasuringTurns::Measures(size_t device) const {
  return std::ranges::any_of(entries_, [&](const Entry& entry) { return entry.measuring && entry.device == device; });
}

bool MeasuringTurns::AnyoneLoads(std::span<const Loading> loading, size_t device) const {
  return std::ranges::any_of(loading, [&](const Loading& process) {
    const auto same = [&](const Entry& entry) { return entry.worker == process.worker; };
    return process.device == device && std::ranges::none_of(entries_, same);
  });
}

}  // namespace abacus
