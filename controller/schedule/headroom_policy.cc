#include "controller/schedule/headroom_policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>

#include "controller/schedule/demand.h"

namespace abacus {
namespace {

constexpr size_t kMaxOffers = 16;
constexpr size_t kSearchWays = 8;                      // ends that are looked at together
constexpr double kTooMuch = 0.4;                       // demand.h; docs/results has what 0.3 and 0.5 carry
constexpr size_t kStartingWays = 2;                    // jobs of the most urgent service that are looked at
constexpr size_t kJoiningWays = 3;                     // and of each service that joins
constexpr std::array kShares = {0.8, 1.0, 1.25, 1.6};  // of the end at which a range would take as long as the group

bool MoreUrgent(const Demand& a, const Demand& b) {
  return a.due_ns() != b.due_ns() ? a.due_ns() < b.due_ns() : a.order() < b.order();
}

// What joining with operators [way.first, end) would bring.
struct Offer {
  const Way* way = nullptr;
  uint32_t end = 0;
  uint64_t time_ns = 0;  // of the whole group
  uint64_t solo_ns = 0;  // of the range alone
  double worth_ns = 0;   // of the range

  bool to_the_end() const { return end == way->operators; }
};

// The round while it is put together.
class Group {
 public:
  using Demands = boost::container::static_vector<const Demand*, kMaxServices>;

  // `until_ns`: of each demand if it does not join.
  using Until = boost::container::static_vector<uint64_t, kMaxServices>;
  Group(const Snapshot& snapshot, const Demands& demands, const Until& until_ns, uint64_t horizon_ns)
      : snapshot_(snapshot), demands_(demands), horizon_ns_(horizon_ns), until_ns_(until_ns) {}

  // The first, most urgent range.
  void Start(const Way& way) {
    Offer whole{&way, way.operators, way.solo_ns, way.solo_ns, way.worth_ns};
    if (snapshot_.WithMargin(whole.time_ns) > horizon_ns_) whole = UpToHorizon(*demands_[0], way);
    Join(0, whole);
  }

  // Fills in what joining with each of the ways and ends of `offers` would bring; at most kMaxOffers.
  void Evaluate(size_t joining, std::span<Offer> offers) const {
    boost::container::static_vector<OperatorRange, kMaxOffers> choices;
    for (const Offer& offer : offers) {
      choices.push_back({demands_[joining]->service(), offer.way->bucket, offer.way->first, offer.end});
    }
    std::array<Prediction, kMaxOffers> together;
    snapshot_.latency->PredictChoices({ranges_.data(), ranges_.size()}, {choices.data(), choices.size()},
                                      std::span(together).first(choices.size()));
    for (size_t i = 0; i < offers.size(); ++i) {
      offers[i] = OfferOf(*offers[i].way, offers[i].end, together[i].ns, snapshot_.latency->PredictNs(choices[i]));
    }
  }
  // Index of the first end up to which the way alone takes at least as long as the group; the last one if none does.
  size_t FirstAsLong(size_t joining, const Way& way, std::span<const uint32_t> ends) const {
    const auto shorter = [&](uint32_t end) {
      return snapshot_.latency->PredictNs({demands_[joining]->service(), way.bucket, way.first, end}) < time_ns_;
    };
    const auto first = std::ranges::partition_point(ends, shorter);
    return std::min(static_cast<size_t>(first - ends.begin()), ends.size() - 1);
  }

  bool Fits(size_t joining, const Offer& offer) const {
    const uint64_t with_margin_ns = snapshot_.WithMargin(offer.time_ns);
    if (with_margin_ns > std::max(horizon_ns_, time_ns_)) return false;
    uint64_t until_ns = UntilIfJoined(joining, offer);
    for (size_t i = 0; i < until_ns_.size(); ++i) {
      if (i != joining) until_ns = std::min(until_ns, until_ns_[i]);
    }
    return until_ns == kNever || snapshot_.now_ns + with_margin_ns <= until_ns;
  }
  // It takes less time than the two one after another.
  bool Gains(const Offer& offer) const { return offer.time_ns < time_ns_ + offer.solo_ns; }
  double WorthPerTime(const Offer& offer) const {
    return (worth_ns_ + offer.worth_ns) / static_cast<double>(std::max<uint64_t>(1, offer.time_ns));
  }
  double WorthPerTime() const { return worth_ns_ / static_cast<double>(std::max<uint64_t>(1, time_ns_)); }

  void Join(size_t joining, const Offer& offer) {
    joined_.push_back({joining, offer});
    ranges_.push_back({demands_[joining]->service(), offer.way->bucket, offer.way->first, offer.end});
    until_ns_[joining] = UntilIfJoined(joining, offer);
    time_ns_ = offer.time_ns;
    worth_ns_ += offer.worth_ns;
  }

  Plan MakePlan() const {
    Plan plan;
    for (const auto& [joining, offer] : joined_) {
      plan.assignments.push_back(demands_[joining]->UpTo(*offer.way, offer.end));
    }
    plan.urgent_order = demands_[0]->order();
    plan.worth_per_time = static_cast<float>(WorthPerTime());
    return plan;
  }

 private:
  static Offer OfferOf(const Way& way, uint32_t end, uint64_t time_ns, uint64_t solo_ns) {
    const double share = static_cast<double>(solo_ns) / static_cast<double>(way.solo_ns);
    return {&way, end, time_ns, solo_ns, way.worth_ns * std::min(1.0, share)};
  }
  uint64_t UntilIfJoined(size_t joining, const Offer& offer) const {
    const Demand& demand = *demands_[joining];
    if (offer.to_the_end()) return demand.UntilIfDone(*offer.way);
    return demand.UntilIfCut(offer.way->solo_ns - std::min(offer.way->solo_ns, offer.solo_ns));
  }
  // As much as the horizon allows, one interval between cut points at least.
  Offer UpToHorizon(const Demand& demand, const Way& way) const {
    const std::span<const uint32_t> ends = demand.EndsOf(way);
    const auto solo_ns = [&](uint32_t end) {
      return snapshot_.latency->PredictNs({demand.service(), way.bucket, way.first, end});
    };
    const auto beyond = std::ranges::partition_point(
        ends, [&](uint32_t end) { return snapshot_.WithMargin(solo_ns(end)) <= horizon_ns_; });
    const uint32_t end = beyond == ends.begin() ? ends.front() : *(beyond - 1);
    return OfferOf(way, end, solo_ns(end), solo_ns(end));
  }

  const Snapshot& snapshot_;
  const Demands& demands_;
  uint64_t horizon_ns_;
  Until until_ns_;
  boost::container::static_vector<OperatorRange, kMaxServices> ranges_;
  boost::container::static_vector<std::pair<size_t, Offer>, kMaxServices> joined_;  // by index of the demand
  uint64_t time_ns_ = 0;                                                            // predicted for the group so far
  double worth_ns_ = 0;
};

// The furthest end that fits, by multi-way search: group times grow with the end. end == 0: none does.
Offer Furthest(const Group& group, size_t joining, const Demand& demand, const Way& way) {
  const std::span<const uint32_t> ends = demand.EndsOf(way);
  Offer best;
  size_t low = 0, high = ends.size();
  while (low < high) {
    const size_t count = std::min(kSearchWays, high - low);
    std::array<size_t, kSearchWays> index;
    std::array<Offer, kSearchWays> offers;
    for (size_t i = 0; i < count; ++i) {
      index[i] = low + (high - low) * (i + 1) / count - 1;
      offers[i] = {.way = &way, .end = ends[index[i]]};
    }
    group.Evaluate(joining, std::span(offers).first(count));
    size_t fitting = 0;
    while (fitting < count && group.Fits(joining, offers[fitting])) ++fitting;
    if (fitting > 0) {
      best = offers[fitting - 1];
      low = index[fitting - 1] + 1;
    }
    if (fitting < count) high = index[fitting];
  }
  return best;
}

using Offers = boost::container::static_vector<Offer, kMaxOffers>;

// The ends of a way that are looked at: around the one where the range alone would take as long as the group does, so
// that all end together, and the model's end.
void AddOffers(const Group& group, size_t joining, const Demand& demand, const Way& way, Offers* offers) {
  const std::span<const uint32_t> ends = demand.EndsOf(way);
  const size_t even = group.FirstAsLong(joining, way, ends);
  size_t next = 1;
  for (const double share : kShares) {
    // `index` counts from 1 here, so that a share of it never falls below the first end.
    const auto index = std::max(next, static_cast<size_t>(std::lround(share * static_cast<double>(even + 1))));
    if (index >= ends.size()) break;
    offers->push_back({.way = &way, .end = ends[index - 1]});
    next = index + 1;
  }
  offers->push_back({.way = &way, .end = ends.back()});
}

// The way and end at which the group is worth most per time, among those that fit. end == 0: none fits.
Offer MostWorth(const Group& group, size_t joining, const Demand& demand) {
  const Demand::Ways ways = demand.BestWithin(kNever);
  Offers offers;
  for (const Way* way : std::span(ways.data(), std::min(kJoiningWays, ways.size()))) {
    AddOffers(group, joining, demand, *way, &offers);
  }
  group.Evaluate(joining, {offers.data(), offers.size()});
  Offer best;
  for (const Offer& offer : offers) {
    if (!group.Fits(joining, offer)) continue;
    if (best.end == 0 || group.WorthPerTime(offer) > group.WorthPerTime(best)) best = offer;
  }
  return best.end != 0 ? best : Furthest(group, joining, demand, *ways.front());
}

// No round shall take longer, and no job be larger: what arrives when it has begun can still make it in the next one.
uint64_t HorizonNs(const Snapshot& snapshot) {
  uint64_t horizon_ns = kNever;
  for (const ServiceView& service : snapshot.services) {
    if (!service.serving || service.qos_ns == 0 || service.buckets.empty()) continue;
    const uint64_t needs_ns =
        snapshot.WithMargin(snapshot.latency->PredictNs({service.id, 0, 0, service.buckets.front().operators}));
    if (2 * needs_ns < service.qos_ns) horizon_ns = std::min(horizon_ns, service.qos_ns / 2);
  }
  return horizon_ns;
}

// Each other job joins where the round is worth most per time with it, if that is more than without.
void FillBalanced(const Group::Demands& demands, Group* group) {
  for (size_t i = 1; i < demands.size(); ++i) {
    const Offer offer = MostWorth(*group, i, *demands[i]);
    if (offer.end != 0 && group->Gains(offer) && group->WorthPerTime(offer) > group->WorthPerTime()) {
      group->Join(i, offer);
    }
  }
}

// Each other job joins with all that it has left; the first that does not fit joins up to a cut and ends the round.
void FillFurthest(const Group::Demands& demands, Group* group) {
  bool all_of_it = true;
  for (size_t i = 1; i < demands.size() && all_of_it; ++i) {
    const Way& way = *demands[i]->BestWithin(kNever).front();
    Offer offer{.way = &way, .end = way.operators};
    group->Evaluate(i, {&offer, 1});
    all_of_it = group->Fits(i, offer);
    if (!all_of_it) offer = Furthest(*group, i, *demands[i], way);
    if (offer.end != 0 && group->Gains(offer)) group->Join(i, offer);
  }
}

// demand.h, "Too much".
void ShedWhereTooMuch(const Snapshot& snapshot, std::span<Demand*> demands) {
  std::ranges::sort(demands, {}, &Demand::last_due_ns);
  double worth_ns = 0;
  size_t too_much = 0;
  for (size_t i = 0; i < demands.size(); ++i) {
    worth_ns += demands[i]->worth_ns();
    const uint64_t last_ns = std::max(demands[i]->last_due_ns(), snapshot.now_ns);
    if (worth_ns > kTooMuch * static_cast<double>(last_ns - snapshot.now_ns)) too_much = i + 1;
  }
  for (Demand* demand : demands.first(too_much)) demand->ShedTheMostUrgent();
}

struct Bounds {
  Group::Until until_ns;       // of each demand if it does not join
  uint64_t limit_ns = kNever;  // for the most urgent range, alone
  uint64_t horizon_ns = kNever;
};
Bounds BoundsOf(const Snapshot& snapshot, const Group::Demands& demands) {
  Bounds bounds;
  const Demand& urgent = *demands[0];
  const uint64_t earliest_ns = snapshot.now_ns + snapshot.WithMargin(urgent.quickest().solo_ns);
  uint64_t limit_ns = kNever;
  for (const Demand* demand : demands) {
    uint64_t until_ns = demand->UntilIfWaiting();
    if (demand == &urgent) {
      if (until_ns != kNever) limit_ns = std::min(limit_ns, urgent.due_ns());
    } else {
      // Who cannot wait for even the quickest job does not bound it; it may still join.
      if (until_ns < earliest_ns) until_ns = kNever;
      limit_ns = std::min(limit_ns, until_ns);
    }
    bounds.until_ns.push_back(until_ns);
  }
  if (limit_ns != kNever) bounds.limit_ns = limit_ns - snapshot.now_ns;
  bounds.horizon_ns = HorizonNs(snapshot);
  return bounds;
}

}  // namespace

Plan HeadroomPolicy::Next(const Snapshot& snapshot) const {
  boost::container::static_vector<std::optional<Demand>, kMaxServices> made;
  boost::container::static_vector<Demand*, kMaxServices> all;
  for (const ServiceView& service : snapshot.services) {
    if (service.idle() && service.has_work()) all.push_back(&made.emplace_back().emplace(snapshot, service));
  }
  if (all.empty()) return {};
  ShedWhereTooMuch(snapshot, {all.data(), all.size()});
  std::ranges::sort(all, [](const Demand* a, const Demand* b) { return MoreUrgent(*a, *b); });

  const Group::Demands demands(all.begin(), all.end());
  const Bounds bounds = BoundsOf(snapshot, demands);
  const Demand::Ways ways = demands[0]->BestWithin(std::min(bounds.limit_ns, bounds.horizon_ns));
  std::optional<Group> best;
  for (const Way* way :
       std::span(ways.data(), std::min(packing_ == Packing::kBalanced ? kStartingWays : 1, ways.size()))) {
    Group group(snapshot, demands, bounds.until_ns, bounds.horizon_ns);
    group.Start(*way);
    packing_ == Packing::kBalanced ? FillBalanced(demands, &group) : FillFurthest(demands, &group);
    if (!best || group.WorthPerTime() > best->WorthPerTime()) best.emplace(group);
  }
  return best->MakePlan();
}

}  // namespace abacus
