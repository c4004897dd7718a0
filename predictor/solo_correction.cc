#include "predictor/solo_correction.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "predictor/corrected_model.h"

namespace abacus {
namespace {

// ln(bound / predicted) for the bound that the prediction is outside of, and by how much.
struct Miss {
  double log = 0;
  uint64_t ns = 0;
};

Miss MissOf(uint64_t predicted_ns, uint64_t least_ns, uint64_t most_ns) {
  const uint64_t bound_ns = std::clamp(predicted_ns, least_ns, std::max(least_ns, most_ns));
  if (bound_ns == predicted_ns) return {};
  return {std::log(static_cast<double>(std::max<uint64_t>(1, bound_ns)) / static_cast<double>(predicted_ns)),
          std::max(bound_ns, predicted_ns) - std::min(bound_ns, predicted_ns)};
}

}  // namespace

SoloCorrection::Entry& SoloCorrection::At(ServiceId service, uint32_t bucket) {
  if (services_.size() <= service.value()) services_.resize(service.value() + 1);
  std::vector<Entry>& buckets = services_[service.value()];
  if (buckets.size() <= bucket) buckets.resize(bucket + 1);
  return buckets[bucket];
}

void SoloCorrection::SetBuckets(ServiceId service, std::span<const uint64_t> whole_ns) {
  for (uint32_t b = 0; b < whole_ns.size(); ++b) {
    Entry& entry = At(service, b);
    if (entry.whole_ns == whole_ns[b]) continue;
    entry = {};
    entry.whole_ns = whole_ns[b];
  }
}

bool SoloCorrection::Record(std::span<const Part> round, Conditions conditions) {
  const auto last = std::ranges::max_element(round, {}, &Part::took_ns);
  bool wrong = false;
  for (auto part = round.begin(); part != round.end(); ++part) {
    const size_t service = part->range.service.value();
    if (service >= services_.size() || part->range.bucket >= services_[service].size() || part->alone_ns == 0 ||
        part->took_ns == 0) {
      continue;
    }
    uint64_t least_ns = 0;
    if (part == last && conditions.quiet) {
      least_ns = part->took_ns;
      for (const Part& other : round) {
        if (&other != &*part) least_ns -= std::min(least_ns, std::min(other.alone_ns, other.took_ns));
      }
    }
    Entry& entry = services_[service][part->range.bucket];
    const bool exact = round.size() == 1 && conditions.quiet && (conditions.ahead || entry.rounds < kMeasured);
    wrong |= Learn(*part, least_ns, part->took_ns, exact, &entry);
  }
  return wrong;
}

bool SoloCorrection::Learn(const Part& part, uint64_t least_ns, uint64_t most_ns, bool exact, Entry* entry) {
  const Miss miss = MissOf(part.alone_ns, least_ns, most_ns);
  const bool most_of_a_pass =
      2 * static_cast<double>(part.alone_ns) >= static_cast<double>(entry->whole_ns) * entry->factor;
  const bool wrong = miss.ns > kClearNs && std::abs(miss.log) > (most_of_a_pass ? kClear : kClearPart);
  if (entry->wanted.size() == kWindow) entry->wanted.erase(entry->wanted.begin());
  entry->wanted.push_back(std::log(entry->factor) + (wrong ? miss.log : 0));
  if (wrong) {
    Jump(entry);
  } else if (exact) {
    const auto alone_ns = static_cast<double>(part.alone_ns);
    const double share = alone_ns / (alone_ns + CorrectedModel::kShortNs);
    entry->factor *= std::exp(share * std::clamp(miss.log, -kClear, kClear) / (entry->rounds + 1));
    entry->rounds = std::min(entry->rounds + 1, kSettled);
  }
  return wrong;
}

void SoloCorrection::Jump(Entry* entry) {
  std::array<double, kWindow> sorted{};
  const auto end = std::ranges::copy(entry->wanted, sorted.begin()).out;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>((entry->wanted.size() - 1) / 2);
  std::nth_element(sorted.begin(), middle, end);
  if (std::abs(*middle - std::log(entry->factor)) <= kClear) return;
  entry->factor = std::exp(std::clamp(*middle, -kFurthest, kFurthest));
  entry->rounds = 1;
}

}  // namespace abacus
