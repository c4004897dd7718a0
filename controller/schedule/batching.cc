#include "controller/schedule/batching.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

namespace abacus {
namespace {

// Buckets are numbered batch-major (model_spec.h).
uint32_t SequenceCount(const ModelSpec& spec) {
  return spec.has_sequence() ? static_cast<uint32_t>(spec.sequence_lengths.size()) : 1;
}

uint64_t SoloNs(const ServiceView& service, const LatencyModel& latency, uint32_t bucket) {
  const uint64_t ns = latency.PredictNs({service.id, bucket, 0, service.buckets[bucket].operators});
  return std::max<uint64_t>(1, ns);
}

bool OneQueryAJob(const ServiceView& service) { return !service.batchable || service.max_batch <= 1; }

// Of a row in this bucket of sequence, when jobs of up to `largest` rows can be had.
double WorthOfRow(const ServiceView& service, const LatencyModel& latency, uint32_t sequence_index, int64_t largest) {
  const ModelSpec& spec = *service.spec;
  double least_ns = 0;
  for (uint32_t b = 0; b < spec.batch_sizes.size(); ++b) {
    const int64_t rows = std::min(spec.batch_sizes[b], largest);
    const uint64_t solo_ns = SoloNs(service, latency, b * SequenceCount(spec) + sequence_index);
    if (b > 0 && service.qos_ns > 0 && 2 * solo_ns > service.qos_ns) break;
    const double row_ns = static_cast<double>(solo_ns) / static_cast<double>(rows);
    if (b == 0 || row_ns < least_ns) least_ns = row_ns;
    if (rows == largest) break;
  }
  return least_ns;
}

// Waiting queries from the oldest on, as indices; empty: in the order in which they stand.
std::vector<uint32_t> ByArrival(const ServiceView& service) {
  if (std::ranges::is_sorted(service.waiting, {}, &WaitingQuery::order)) return {};
  std::vector<uint32_t> indices(service.waiting.size());
  std::iota(indices.begin(), indices.end(), 0u);
  // Parts of a query have one order.
  std::ranges::sort(indices, {}, [&](uint32_t index) { return std::pair(service.waiting[index].order, index); });
  return indices;
}

}  // namespace

double WorthOf(const ServiceView& service, const LatencyModel& latency, const WaitingQuery& query) {
  if (OneQueryAJob(service)) return static_cast<double>(SoloNs(service, latency, query.bucket));
  const int64_t largest = std::max<int64_t>(service.max_batch, query.rows);
  return query.rows * WorthOfRow(service, latency, query.bucket % SequenceCount(*service.spec), largest);
}

double WorthOf(const ServiceView& service, const LatencyModel& latency, std::span<const WaitingQuery> queries) {
  const uint32_t sequences = SequenceCount(*service.spec);
  std::array<double, kMaxBuckets> of_row{};  // by sequence bucket; 0: not known yet
  double worth_ns = 0;
  for (const WaitingQuery& query : queries) {
    if (!query.counts()) continue;
    if (OneQueryAJob(service) || query.rows > service.max_batch) {
      worth_ns += WorthOf(service, latency, query);
      continue;
    }
    double& row_ns = of_row[query.bucket % sequences];
    if (row_ns == 0) row_ns = WorthOfRow(service, latency, query.bucket % sequences, service.max_batch);
    worth_ns += query.rows * row_ns;
  }
  return worth_ns;
}

double WorthOf(const ServiceView& service, const LatencyModel& latency, const Job& job) {
  return WorthOf(service, latency, std::span(job.queries));
}

BatchChoices::BatchChoices(const ServiceView& service, const LatencyModel& latency, uint32_t lead, BatchOrder by)
    : service_(service), latency_(latency), lead_(lead) {
  const WaitingQuery& query = service.waiting[lead];
  if (OneQueryAJob(service) || query.rows > service.max_batch || query.probe()) {
    lists_.push_back({lead});
    const uint64_t solo_ns = SoloNs(service, latency, query.bucket);
    choices_.push_back({query.bucket, query.rows, 1, 0, solo_ns, WorthOf(service, latency, query)});
    return;
  }
  const ModelSpec& spec = *service.spec;
  const uint32_t own = query.bucket % SequenceCount(spec);
  uint32_t end = std::min<uint32_t>(SequenceCount(spec), own + kMaxLists);
  if (spec.sequence_padding == SequencePadding::kExact) end = own + 1;
  for (uint32_t i = 0; i < end; ++i) {
    row_ns_.push_back(WorthOfRow(service, latency, i, service.max_batch));
  }
  const std::vector<uint32_t> oldest_first = by == BatchOrder::kArrival ? ByArrival(service) : std::vector<uint32_t>();
  for (uint32_t sequence_index = own; sequence_index < end; ++sequence_index) {
    AddList(oldest_first, sequence_index);
    // Without longer ones among them a longer bucket only costs more.
    if (sequence_index > own && lists_.back() == lists_[lists_.size() - 2]) {
      lists_.pop_back();
    } else {
      AddChoices(sequence_index);
    }
  }
}

void BatchChoices::AddList(std::span<const uint32_t> order, uint32_t sequence_index) {
  const uint32_t sequences = SequenceCount(*service_.spec);
  const bool exact = service_.spec->sequence_padding == SequencePadding::kExact;
  const WaitingQuery& lead = service_.waiting[lead_];
  Members& members = lists_.emplace_back();
  members.push_back(lead_);
  uint32_t rows = lead.rows;
  // False: the list is complete.
  const auto add = [&](uint32_t index) {
    const WaitingQuery& query = service_.waiting[index];
    const uint32_t length = query.bucket % sequences;
    const bool fits = exact ? length == sequence_index : length <= sequence_index;
    if (index == lead_ || !fits || query.synthetic != lead.synthetic || query.probe()) return true;
    rows += query.rows;
    if (rows > service_.max_batch || members.size() == members.capacity()) return false;
    members.push_back(index);
    return true;
  };
  if (order.empty()) {
    for (uint32_t i = lead_ + 1; i < service_.waiting.size() && add(i);) ++i;
  } else {
    auto it = std::ranges::find(order, lead_);
    while (++it != order.end() && add(*it)) {
    }
  }
}

void BatchChoices::AddChoices(uint32_t sequence_index) {
  const ModelSpec& spec = *service_.spec;
  const uint32_t sequences = SequenceCount(spec);
  const auto list = static_cast<uint16_t>(lists_.size() - 1);
  const Members& members = lists_.back();
  Choice choice{.list = list};
  for (uint32_t b = 0; b < spec.batch_sizes.size() && choice.count < members.size(); ++b) {
    const uint16_t before = choice.count;
    while (choice.count < members.size()) {
      const WaitingQuery& next = service_.waiting[members[choice.count]];
      if (choice.rows + next.rows > spec.batch_sizes[b]) break;
      choice.rows += next.rows;
      choice.worth_ns += next.rows * row_ns_[next.bucket % sequences];
      ++choice.count;
    }
    if (choice.count == before) continue;  // a larger bucket for the same queries
    choice.bucket = b * sequences + sequence_index;
    choice.solo_ns = SoloNs(service_, latency_, choice.bucket);
    choices_.push_back(choice);
  }
}

Batch BatchChoices::Of(const Choice& choice) const {
  const Members& members = lists_[choice.list];
  Batch batch{&service_, choice.bucket, choice.rows, {members.begin(), members.begin() + choice.count}};
  std::ranges::sort(batch.queries);
  return batch;
}

const BatchChoices::Choice& BatchChoices::Best() const {
  return *std::ranges::max_element(choices_, {}, &Choice::worth_per_time);
}

const WaitingQuery* BatchChoices::LeftBeside(const Choice& choice) const {
  const Members& members = lists_[choice.list];
  uint32_t left = 0;  // the first gap
  while (left < choice.count && members[left] == left) ++left;
  return left < service_.waiting.size() ? &service_.waiting[left] : nullptr;
}

Batch GreedyBatch(const ServiceView& service, const LatencyModel& latency, uint32_t lead, BatchOrder by) {
  const BatchChoices choices(service, latency, lead, by);
  return choices.Of(choices.Best());
}

Batch LargestWithin(const ServiceView& service, const Snapshot& snapshot, uint32_t lead, uint64_t limit_ns) {
  const BatchChoices choices(service, *snapshot.latency, lead);
  const BatchChoices::Choice* largest = &choices.all().front();
  for (const BatchChoices::Choice& choice : choices.all()) {
    const bool better = choice.rows != largest->rows ? choice.rows > largest->rows : choice.solo_ns < largest->solo_ns;
    if (better && snapshot.WithMargin(choice.solo_ns) <= limit_ns) largest = &choice;
  }
  return choices.Of(*largest);
}

}  // namespace abacus
