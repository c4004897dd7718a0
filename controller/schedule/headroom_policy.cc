#include "controller/schedule/headroom_policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace abacus {
namespace {

constexpr size_t kSearchWays = 8;  // two steps settle 64 cuts

// What a service would run next, and how urgent that is: as the earliest deadline among all that waits there.
struct Pick {
  Candidate next;
  uint64_t urgency_ns = 0;
};

bool MoreUrgent(const Pick& a, const Pick& b) {
  return a.urgency_ns != b.urgency_ns ? a.urgency_ns < b.urgency_ns : a.next.order < b.next.order;
}

// An unfinished job blocks the others of its service and inherits their urgency.
Pick PickOf(const ServiceView& service) {
  Pick pick;
  if (service.unfinished != nullptr) {
    pick.next = Candidate::Resume(service);
    pick.urgency_ns = pick.next.deadline_ns;
  }
  uint32_t most_urgent = 0;
  for (uint32_t i = 0; i < service.waiting.size(); ++i) {
    const uint64_t due_ns = service.waiting[i].due_ns();
    if (due_ns < service.waiting[most_urgent].due_ns()) most_urgent = i;
    if ((i == 0 && service.unfinished == nullptr) || due_ns < pick.urgency_ns) pick.urgency_ns = due_ns;
  }
  if (service.unfinished == nullptr) pick.next = Candidate::Begin(service, most_urgent);
  return pick;
}

// The group of one round while it is put together.
class Group {
 public:
  Group(const Snapshot& snapshot, uint64_t headroom_ns) : snapshot_(snapshot), headroom_ns_(headroom_ns) {}

  void Start(const Candidate& next, uint64_t solo_ns) {
    Add(next, next.operators, solo_ns);
    solo_ns_ = solo_ns;
  }

  // What joining with operators [next, end) would bring.
  struct Offer {
    uint32_t end = 0;
    uint64_t time_ns = 0;  // of the whole group
    uint64_t solo_ns = 0;  // of the range alone
  };
  void Evaluate(const Candidate& next, std::span<const uint32_t> ends, std::span<Offer> offers) const {
    std::array<Prediction, kSearchWays> together, alone;
    const OperatorRange range = next.rest();
    snapshot_.latency->PredictEnds({ranges_.data(), ranges_.size()}, range, ends,
                                   std::span(together).first(ends.size()));
    snapshot_.latency->PredictEnds({}, range, ends, std::span(alone).first(ends.size()));
    for (size_t i = 0; i < ends.size(); ++i) offers[i] = {ends[i], together[i].ns, alone[i].ns};
  }
  // Index of the first end up to which the job alone takes at least as long as the group; the last one if none does.
  size_t FirstAsLong(const Candidate& next, std::span<const uint32_t> ends) const {
    const auto shorter = [&](uint32_t end) {
      return snapshot_.latency->PredictNs({next.service->id, next.bucket, next.first, end}) < time_ns_;
    };
    const auto first = std::partition_point(ends.begin(), ends.end(), shorter);
    return std::min(static_cast<size_t>(first - ends.begin()), ends.size() - 1);
  }
  bool Fits(const Offer& offer) const { return snapshot_.WithMargin(offer.time_ns) <= headroom_ns_; }
  bool Gains(const Offer& offer) const { return offer.time_ns < time_ns_ + offer.solo_ns; }
  // Solo time done per predicted time.
  double Efficiency(const Offer& offer) const {
    return static_cast<double>(solo_ns_ + offer.solo_ns) / static_cast<double>(std::max<uint64_t>(1, offer.time_ns));
  }
  double Efficiency() const {
    return static_cast<double>(solo_ns_) / static_cast<double>(std::max<uint64_t>(1, time_ns_));
  }

  void Join(const Candidate& next, const Offer& offer) {
    Add(next, offer.end, offer.time_ns);
    solo_ns_ += offer.solo_ns;
  }
  const Plan& plan() const { return plan_; }

 private:
  void Add(const Candidate& next, uint32_t end, uint64_t time_ns) {
    plan_.assignments.push_back(next.UpTo(end));
    ranges_.push_back(plan_.assignments.back().range());
    time_ns_ = time_ns;
  }

  const Snapshot& snapshot_;
  const uint64_t headroom_ns_;
  boost::container::static_vector<OperatorRange, kMaxServices> ranges_;
  Plan plan_;
  uint64_t time_ns_ = 0;  // predicted for the group so far
  uint64_t solo_ns_ = 0;  // sum over its ranges
};

// Cut points after what has run, the end of the model included.
std::span<const uint32_t> EndsOf(const Candidate& next) {
  const std::span<const uint32_t> cuts = next.ranges().cuts;
  const auto after = std::upper_bound(cuts.begin(), cuts.end(), next.first);
  return cuts.subspan(static_cast<size_t>(after - cuts.begin()));
}

// Looks at kSearchWays ends spread over ends[low, high), ends[high - 1] among them.
size_t Spread(std::span<const uint32_t> ends, size_t low, size_t high, std::array<size_t, kSearchWays>* index,
              std::array<uint32_t, kSearchWays>* picked) {
  const size_t count = std::min(kSearchWays, high - low);
  for (size_t i = 0; i < count; ++i) {
    (*index)[i] = low + (high - low) * (i + 1) / count - 1;
    (*picked)[i] = ends[(*index)[i]];
  }
  return count;
}

// The furthest end that fits, by multi-way search: group times grow with the end. end == 0: none does.
Group::Offer Furthest(const Group& group, const Candidate& next) {
  const std::span<const uint32_t> ends = EndsOf(next);
  Group::Offer best;
  size_t low = 0, high = ends.size();
  while (low < high) {
    std::array<size_t, kSearchWays> index;
    std::array<uint32_t, kSearchWays> picked;
    std::array<Group::Offer, kSearchWays> offers;
    const size_t count = Spread(ends, low, high, &index, &picked);
    group.Evaluate(next, {picked.data(), count}, offers);
    size_t fitting = 0;
    while (fitting < count && group.Fits(offers[fitting])) ++fitting;
    if (fitting > 0) {
      best = offers[fitting - 1];
      low = index[fitting - 1] + 1;
    }
    if (fitting < count) high = index[fitting];
  }
  return best;
}

// The end at which the group is most efficient, among those that fit. end == 0: none fits.
//
// That is near the cut where the range alone would take as long as the group does: all end together. The ends that are
// looked at lie around it, and the model's end is always one of them.
Group::Offer MostEfficient(const Group& group, const Candidate& candidate) {
  constexpr std::array<double, kSearchWays - 1> kShares = {0.5, 0.65, 0.8, 0.9, 1.0, 1.15, 1.35};
  const std::span<const uint32_t> ends = EndsOf(candidate);
  const size_t even = group.FirstAsLong(candidate, ends);
  std::array<uint32_t, kSearchWays> picked;
  size_t count = 0, next = 1;
  for (const double share : kShares) {
    const auto index = std::max(next, static_cast<size_t>(std::lround(share * static_cast<double>(even + 1))));
    // `index` counts from 1 here, so that a share of it never falls below the first end.
    if (index >= ends.size()) break;
    picked[count++] = ends[index - 1];
    next = index + 1;
  }
  picked[count++] = ends.back();
  std::array<Group::Offer, kSearchWays> offers;
  group.Evaluate(candidate, {picked.data(), count}, offers);
  Group::Offer best;
  for (size_t i = 0; i < count && group.Fits(offers[i]); ++i) {
    if (best.end == 0 || group.Efficiency(offers[i]) >= group.Efficiency(best)) best = offers[i];
  }
  return best.end != 0 ? best : Furthest(group, candidate);
}

}  // namespace

Plan HeadroomPolicy::Next(const Snapshot& snapshot) const {
  boost::container::static_vector<Pick, kMaxServices> picks;
  for (const ServiceView& service : snapshot.services) {
    if (service.idle() && service.has_work()) picks.push_back(PickOf(service));
  }
  if (picks.empty()) return {};
  std::sort(picks.begin(), picks.end(), MoreUrgent);

  // Whose headroom it is: the first that can still make it.
  uint64_t headroom_ns = std::numeric_limits<uint64_t>::max();
  for (const Pick& pick : picks) {
    const uint64_t alone_ns = snapshot.latency->PredictNs(pick.next.rest());
    if (snapshot.now_ns + alone_ns <= pick.urgency_ns) {
      headroom_ns = pick.urgency_ns - snapshot.now_ns;
      break;
    }
  }

  Group group(snapshot, headroom_ns);
  group.Start(picks[0].next, snapshot.latency->PredictNs(picks[0].next.rest()));
  for (size_t i = 1; i < picks.size(); ++i) {
    const Candidate& next = picks[i].next;
    if (packing_ == Packing::kBalanced) {
      const Group::Offer offer = MostEfficient(group, next);
      if (offer.end != 0 && group.Gains(offer) && group.Efficiency(offer) > group.Efficiency()) group.Join(next, offer);
      continue;
    }
    Group::Offer offer;
    const uint32_t whole = next.operators;
    group.Evaluate(next, {&whole, 1}, {&offer, 1});
    const bool all_of_it = group.Fits(offer);
    if (!all_of_it) offer = Furthest(group, next);
    if (offer.end != 0 && group.Gains(offer)) {
      group.Join(next, offer);
      if (!all_of_it) break;
    }
  }
  return group.plan();
}

}  // namespace abacus
