#include "controller/schedule/one_at_a_time.h"

#include <algorithm>
#include <array>
#include <utility>

#include "controller/schedule/batching.h"
#include "controller/schedule/turn.h"

namespace abacus {
namespace {

// Calls use(index) with the oldest waiting query of each bucket.
template <class Use>
void ForOldestOfEachBucket(std::span<const WaitingQuery> waiting, const Use& use) {
  std::array<const WaitingQuery*, kMaxBuckets> oldest{};
  for (const WaitingQuery& query : waiting) {
    const WaitingQuery*& other = oldest[query.bucket];
    if (other == nullptr || query.order < other->order) other = &query;
  }
  for (const WaitingQuery* query : oldest) {
    if (query != nullptr) use(static_cast<uint32_t>(query - waiting.data()));
  }
}

}  // namespace

Plan OneAtATime::Shortest(const Snapshot& snapshot) {
  Candidate best;
  uint64_t best_ns = 0, best_queries = 1;
  const auto consider = [&](const Candidate& candidate, uint64_t queries) {
    const uint64_t ns = snapshot.latency->PredictNs(candidate.rest());
    // ns / queries against best_ns / best_queries, without the rounding.
    const auto rank = std::pair(ns * best_queries, candidate.order);
    if (best.service != nullptr && rank >= std::pair(best_ns * queries, best.order)) return;
    best = candidate;
    best_ns = ns;
    best_queries = queries;
  };
  for (const ServiceView& service : snapshot.services) {
    if (!service.idle()) continue;
    if (service.unfinished != nullptr) {
      const auto counts = std::ranges::count_if(service.unfinished->queries, &WaitingQuery::counts);
      consider(Candidate::Resume(service), std::max<uint64_t>(1, static_cast<uint64_t>(counts)));
      continue;
    }
    ForOldestOfEachBucket(service.waiting, [&](uint32_t lead) {
      const Candidate candidate = Candidate::Begin(GreedyBatch(service, *snapshot.latency, lead, BatchOrder::kArrival));
      consider(candidate, candidate.queries.size());
    });
  }
  Plan plan;
  if (best.service != nullptr) plan.assignments.push_back(best.UpTo(best.operators));
  return plan;
}

Plan OneAtATime::MostUrgent(const Snapshot& snapshot) {
  const auto first = FirstTurn(snapshot, Turn::MostUrgent);
  if (!first) return {};
  Plan plan;
  plan.assignments.push_back(first->Take(
      [&](const ServiceView& service, uint32_t lead) { return GreedyBatch(service, *snapshot.latency, lead); }));
  return plan;
}

}  // namespace abacus
