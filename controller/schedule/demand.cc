#include "controller/schedule/demand.h"

#include <algorithm>
#include <functional>

namespace abacus {

Demand::Demand(const Snapshot& snapshot, const ServiceView& service) : snapshot_(snapshot), service_(service) {
  if (service.unfinished != nullptr) {
    AddRest(*service.unfinished);
    due_ns_ = last_due_ns_ = service.unfinished->due_ns();
    order_ = service.unfinished->order();
    worth_ns_ = ways_[0].worth_ns;
  } else {
    AddJobs(0);
    due_ns_ = service.waiting.front().due_ns();
    order_ = service.waiting.front().order;
  }
  if (!service.waiting.empty()) {
    due_ns_ = std::min(due_ns_, service.waiting.front().due_ns());
    last_due_ns_ = std::max(last_due_ns_, service.waiting.back().due_ns());
    worth_ns_ += WorthOf(service, *snapshot.latency, service.waiting);
  }
}

void Demand::AddRest(const Job& job) {
  const auto solo_ns = [&](uint32_t first) {
    return std::max<uint64_t>(1, snapshot_.latency->PredictNs({service_.id, job.bucket, first, job.operators}));
  };
  Way rest{.bucket = job.bucket, .first = job.next_operator, .operators = job.operators};
  rest.solo_ns = solo_ns(rest.first);
  const double share = static_cast<double>(rest.solo_ns) / static_cast<double>(solo_ns(0));
  rest.worth_ns = WorthOf(service_, *snapshot_.latency, job) * std::min(1.0, share);
  rest.left_until_ns = UntilFor(service_.waiting.empty() ? nullptr : &service_.waiting.front());
  ways_.push_back(rest);
  quickest_ = &ways_[0];
}

void Demand::AddJobs(uint32_t lead) {
  ways_.clear();
  choices_.emplace(service_, *snapshot_.latency, lead);
  for (const BatchChoices::Choice& choice : choices_->all()) {
    ways_.push_back({choice.bucket, 0, service_.buckets[choice.bucket].operators, choice.solo_ns, choice.worth_ns,
                     UntilFor(choices_->LeftBeside(choice)), &choice});
  }
  quickest_ = &*std::ranges::min_element(ways_, {}, &Way::solo_ns);
}

void Demand::ShedTheMostUrgent() {
  too_much_ = true;
  for (Way& way : ways_) way.left_until_ns = kNever;
  if (service_.unfinished != nullptr) return;
  const uint64_t needs_ns = snapshot_.WithMargin(choices_->Best().solo_ns);
  // What could not make it even alone is the scheduler's to answer; where it does not, it is served in order.
  if (due_ns_ < snapshot_.now_ns + snapshot_.WithMargin(quickest_->solo_ns)) return;
  const auto makes_it = [&](const WaitingQuery& query) { return query.due_ns() >= snapshot_.now_ns + needs_ns; };
  const auto lead = std::ranges::find_if(service_.waiting, makes_it);
  if (lead != service_.waiting.begin() && lead != service_.waiting.end()) {
    AddJobs(static_cast<uint32_t>(lead - service_.waiting.begin()));
    due_ns_ = lead->due_ns();  // not more urgent than what it runs: others would wait for queries that are passed over
    order_ = lead->order;
  }
}

Demand::Ways Demand::BestWithin(uint64_t limit_ns) const {
  Ways best;
  for (const Way& way : ways_) {
    if (snapshot_.WithMargin(way.solo_ns) <= limit_ns) best.push_back(&way);
  }
  if (best.empty()) best.push_back(quickest_);
  std::ranges::sort(best, std::greater{}, &Way::worth_per_time);
  return best;
}

uint64_t Demand::UntilFor(uint64_t due_ns, uint64_t needs_ns) const {
  if (too_much_) return kNever;
  const uint64_t with_margin_ns = snapshot_.WithMargin(needs_ns);
  return snapshot_.now_ns + with_margin_ns > due_ns ? kNever : due_ns - with_margin_ns;
}

uint64_t Demand::UntilFor(const WaitingQuery* left) const {
  if (left == nullptr) return kNever;
  const OperatorRange pass = {service_.id, left->bucket, 0, service_.buckets[left->bucket].operators};
  return UntilFor(left->due_ns(), snapshot_.latency->PredictNs(pass));
}

uint64_t Demand::UntilIfDone(const Way& way) const {
  const bool can = snapshot_.now_ns + snapshot_.WithMargin(way.solo_ns) <= due_ns_;
  return std::min(can ? due_ns_ : kNever, way.left_until_ns);
}

std::span<const uint32_t> Demand::EndsOf(const Way& way) const {
  const std::span<const uint32_t> cuts = service_.buckets[way.bucket].cuts;
  const auto after = std::ranges::upper_bound(cuts, way.first);
  return cuts.subspan(static_cast<size_t>(after - cuts.begin()));
}

Assignment Demand::UpTo(const Way& way, uint32_t last) const {
  Assignment assignment{service_.id, way.choice == nullptr, {}, way.bucket, way.first, last};
  if (way.choice != nullptr) assignment.queries = choices_->Of(*way.choice).queries;
  return assignment;
}

}  // namespace abacus
