#include "predictor/bucket_match.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace abacus {
namespace {

double ShareOf(const BucketProfile& bucket, uint32_t op) {
  const double round_us = bucket.us.front();
  return bucket.whole_us() > round_us ? (bucket.PrefixUs(op) - round_us) / (bucket.whole_us() - round_us) : 0;
}

// The neighbours of a size among the profiled ones; one of them twice where it was profiled itself.
struct Neighbours {
  std::optional<int64_t> below, above;
  bool exact() const { return below.has_value() && below == above; }
  bool between() const { return below.has_value() && above.has_value(); }
};

Neighbours NeighboursOf(int64_t size, const ModelProfile& model, int64_t BucketProfile::*axis) {
  Neighbours found;
  for (const BucketProfile& bucket : model.buckets) {
    const int64_t profiled = bucket.*axis;
    if (profiled <= size) found.below = std::max(found.below.value_or(profiled), profiled);
    if (profiled >= size) found.above = std::min(found.above.value_or(profiled), profiled);
  }
  return found;
}

std::string Describe(const std::string& size, const Neighbours& neighbours) {
  const auto text = [](int64_t n) { return std::to_string(n); };
  const std::string description = size + " was not profiled: ";
  if (neighbours.between())
    return description + "between " + text(*neighbours.below) + " and " + text(*neighbours.above);
  const std::string bound = neighbours.below ? "above " + text(*neighbours.below) : "below " + text(*neighbours.above);
  return description + bound + ", so solo times are added up";
}

// Where `value` lies between two others, 0 to 1.
double Position(double low, double value, double high) {
  return low < high ? std::clamp((value - low) / (high - low), 0.0, 1.0) : 0.5;
}
double Position(const Neighbours& neighbours, int64_t size) {
  const auto log = [](int64_t n) { return std::log2(static_cast<double>(std::max<int64_t>(1, n))); };
  return Position(log(*neighbours.below), log(size), log(*neighbours.above));
}

class Matcher {
 public:
  Matcher(const ModelProfile& model, std::span<const BucketFacts> facts) : model_(model), facts_(facts) {}

  Result<std::vector<BucketMatch>> Run() {
    std::vector<BucketMatch> matches(facts_.size());
    std::vector<double> ratios;
    for (size_t b = 0; b < facts_.size(); ++b) {
      const std::optional<uint32_t> profiled = Find(facts_[b].batch, facts_[b].sequence, b);
      if (!profiled) continue;
      ABACUS_RETURN_IF_ERROR(Check(facts_[b], model_.buckets[*profiled]));
      matches[b].corners.push_back({*profiled, 1});
      matches[b].whole_us = model_.buckets[*profiled].whole_us();
      if (facts_[b].solo_ns > 0)
        ratios.push_back(matches[b].whole_us / (static_cast<double>(facts_[b].solo_ns) * 1e-3));
    }
    if (!ratios.empty()) {
      const auto middle = ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() / 2);
      std::nth_element(ratios.begin(), middle, ratios.end());
      ratio_ = *middle;
    }
    for (size_t b = 0; b < facts_.size(); ++b) {
      if (matches[b].corners.empty()) ABACUS_RETURN_IF_ERROR(Estimate(facts_[b], &matches[b]));
    }
    KeepOrder(&matches);
    for (size_t b = 0; b < facts_.size(); ++b) matches[b].shares = SharesOf(facts_[b], matches[b]);
    return matches;
  }

 private:
  static Status Bad(const std::string& what) { return {StatusCode::kInvalidArgument, what}; }
  std::string NameOf(const BucketFacts& fact) const {
    return "batch " + std::to_string(fact.batch) +
           (fact.sequence > 0 ? ", sequence " + std::to_string(fact.sequence) : "") + " of " + model_.name;
  }

  // The profiled bucket of a shape; `first` is looked at first.
  std::optional<uint32_t> Find(int64_t batch, int64_t sequence, size_t first = SIZE_MAX) const {
    const auto fits = [&](const BucketProfile& p) {
      return p.batch == batch && p.sequence == sequence && p.measured();
    };
    if (first < model_.buckets.size() && fits(model_.buckets[first])) return static_cast<uint32_t>(first);
    const auto found = std::ranges::find_if(model_.buckets, fits);
    if (found == model_.buckets.end()) return std::nullopt;
    return static_cast<uint32_t>(found - model_.buckets.begin());
  }

  Status Check(const BucketFacts& fact, const BucketProfile& profile) const {
    if (profile.operators != fact.operators) {
      return Bad(NameOf(fact) + " had " + std::to_string(profile.operators) + " operators and has " +
                 std::to_string(fact.operators) + " now");
    }
    return CheckTime(fact, profile.whole_us());
  }
  Status CheckTime(const BucketFacts& fact, double least_us) const {
    if (static_cast<double>(fact.solo_ns) * 1e-3 * kTooFast >= least_us) return Status::Ok();
    return Bad(NameOf(fact) + " took " + std::to_string(std::lround(least_us)) + " us alone and takes " +
               std::to_string(fact.solo_ns / 1000) + " us now");
  }

  // Of a bucket that was not profiled.
  Status Estimate(const BucketFacts& fact, BucketMatch* match) const {
    if (fact.operators == 0 || fact.cuts.size() < 2 || fact.cuts.back() != fact.operators) {
      return Bad(NameOf(fact) + " was not profiled, and its worker does not say where it can be cut");
    }
    const Neighbours batch = NeighboursOf(fact.batch, model_, &BucketProfile::batch);
    const Neighbours sequence = NeighboursOf(fact.sequence, model_, &BucketProfile::sequence);
    const auto size_of = [&](const char* axis, int64_t size) {
      return std::string(axis) + " " + std::to_string(size) + " of " + model_.name;
    };
    if (!batch.exact()) match->note = Describe(size_of("batch", fact.batch), batch);
    if (!sequence.exact()) {
      match->note += (match->note.empty() ? "" : ", ") + Describe(size_of("sequence", fact.sequence), sequence);
    }
    match->whole_us = static_cast<double>(fact.solo_ns) * 1e-3 * ratio_;
    return batch.between() && sequence.between() ? SetCorners(fact, batch, sequence, match) : Status::Ok();
  }

  Status SetCorners(const BucketFacts& fact, const Neighbours& batch, const Neighbours& sequence,
                    BucketMatch* match) const {
    // [above in batch][above in sequence]; the same twice along an axis that was profiled.
    std::optional<uint32_t> corner[2][2];
    double us[2][2];
    for (const int b : {0, 1}) {
      for (const int s : {0, 1}) {
        corner[b][s] = Find(b == 0 ? *batch.below : *batch.above, s == 0 ? *sequence.below : *sequence.above);
        if (!corner[b][s]) {
          match->note = NameOf(fact) + " was not profiled, nor were all of its neighbours";
          return Status::Ok();
        }
        us[b][s] = model_.buckets[*corner[b][s]].whole_us();
      }
    }
    ABACUS_RETURN_IF_ERROR(CheckTime(fact, std::min({us[0][0], us[0][1], us[1][0], us[1][1]})));
    // The measured time says where it is along one axis; if there is another, the size does along that.
    double along_batch = 0, along_sequence = 0;
    if (batch.exact()) {
      along_sequence = Position(us[0][0], match->whole_us, us[0][1]);
    } else {
      if (!sequence.exact()) along_sequence = Position(sequence, fact.sequence);
      along_batch = Position(std::lerp(us[0][0], us[0][1], along_sequence), match->whole_us,
                             std::lerp(us[1][0], us[1][1], along_sequence));
    }
    match->whole_us = 0;
    for (const int b : {0, 1}) {
      for (const int s : {0, 1}) {
        if ((b == 1 && batch.exact()) || (s == 1 && sequence.exact())) continue;
        const double weight = (b == 1 ? along_batch : 1 - along_batch) * (s == 1 ? along_sequence : 1 - along_sequence);
        match->corners.push_back({*corner[b][s], weight});
        match->whole_us += weight * us[b][s];
      }
    }
    return Status::Ok();
  }

  // Measured times have noise: of two buckets that were not profiled, or of one outside of the profile and any other,
  // the larger takes no less.
  void KeepOrder(std::vector<BucketMatch>* matches) const {
    const std::vector<BucketMatch> before = *matches;
    const auto holds = [&](size_t larger, size_t smaller) {
      return facts_[larger].batch >= facts_[smaller].batch && facts_[larger].sequence >= facts_[smaller].sequence;
    };
    for (size_t b = 0; b < facts_.size(); ++b) {
      BucketMatch& match = (*matches)[b];
      if (match.note.empty()) continue;
      for (size_t other = 0; other < facts_.size(); ++other) {
        const double other_us = before[other].whole_us;
        if (match.corners.empty()) {
          if (holds(b, other)) match.whole_us = std::max(match.whole_us, other_us);
          if (holds(other, b) && before[other].note.empty()) match.whole_us = std::min(match.whole_us, other_us);
        } else if (holds(b, other) && SameCorners(match, before[other]) && other_us > match.whole_us) {
          match.whole_us = other_us;
          match.corners = before[other].corners;
        }
      }
    }
  }
  static bool SameCorners(const BucketMatch& a, const BucketMatch& b) {
    return std::ranges::equal(a.corners, b.corners, {}, &BucketMatch::Corner::bucket, &BucketMatch::Corner::bucket);
  }

  // From the corners that have the same operators, else from the worker's own cut points.
  std::vector<float> SharesOf(const BucketFacts& fact, const BucketMatch& match) const {
    std::vector<float> shares;
    double weights = 0;
    for (const BucketMatch::Corner& corner : match.corners) {
      if (model_.buckets[corner.bucket].operators == fact.operators) weights += corner.weight;
    }
    for (uint32_t op = 0; op <= fact.operators; ++op) {
      double share = 0;
      if (weights > 0) {
        for (const BucketMatch::Corner& corner : match.corners) {
          const BucketProfile& profile = model_.buckets[corner.bucket];
          if (profile.operators == fact.operators) share += corner.weight / weights * ShareOf(profile, op);
        }
      } else {
        const auto above = std::ranges::upper_bound(fact.cuts, op);
        const auto i = static_cast<size_t>(std::max<std::ptrdiff_t>(1, above - fact.cuts.begin()) - 1);
        const double within = i + 1 < fact.cuts.size() ? static_cast<double>(op - fact.cuts[i]) /
                                                             static_cast<double>(fact.cuts[i + 1] - fact.cuts[i])
                                                       : 0;
        share = (static_cast<double>(i) + within) / static_cast<double>(fact.cuts.size() - 1);
      }
      shares.push_back(static_cast<float>(std::clamp(share, 0.0, 1.0)));
    }
    return shares;
  }

  const ModelProfile& model_;
  const std::span<const BucketFacts> facts_;
  double ratio_ = 1;  // of the profile's times to the worker's
};

}  // namespace

Result<std::vector<BucketMatch>> MatchBuckets(const ModelProfile& model, std::span<const BucketFacts> facts) {
  return Matcher(model, facts).Run();
}

}  // namespace abacus
