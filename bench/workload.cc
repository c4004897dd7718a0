#include "bench/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "client/arrival_trace.h"

namespace abacus::bench {
namespace {

tl::unexpected<Status> Bad(const std::string& what) { return Error(StatusCode::kInvalidArgument, what); }

// "1,2,4"; nullopt: it is no such list.
std::optional<std::vector<uint32_t>> ReadNumbers(std::string_view text) {
  std::vector<uint32_t> numbers;
  for (;;) {
    uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || number == 0) return std::nullopt;
    numbers.push_back(number);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (text.empty()) return numbers;
    if (text.front() != ',') return std::nullopt;
    text.remove_prefix(1);
  }
}

uint32_t LargestBatch(const ModelProfile& model) {
  int64_t largest = 1;
  for (const BucketProfile& bucket : model.buckets) largest = std::max(largest, bucket.batch);
  return static_cast<uint32_t>(largest);
}

// Ascending; {0}: the model has no sequence dimension.
std::vector<uint32_t> Lengths(const ModelProfile& model) {
  std::vector<uint32_t> lengths;
  for (const BucketProfile& bucket : model.buckets) lengths.push_back(static_cast<uint32_t>(bucket.sequence));
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  return lengths;
}

// Solo time of a query in the smallest bucket that holds it. One of more rows than the largest batch runs in parts.
double SoloUs(const ModelProfile& model, uint32_t rows, uint32_t sequence) {
  const uint32_t largest = LargestBatch(model);
  const auto of = [&](uint32_t batch) {
    const BucketProfile* best = nullptr;
    for (const BucketProfile& bucket : model.buckets) {
      if (bucket.batch < batch || bucket.sequence < sequence) continue;
      if (best == nullptr || bucket.batch < best->batch ||
          (bucket.batch == best->batch && bucket.sequence < best->sequence)) {
        best = &bucket;
      }
    }
    return best == nullptr ? 0 : best->whole_us();
  };
  const uint32_t rest = rows % largest;
  const uint32_t whole = rows / largest;
  return whole * of(largest) + (rest > 0 ? of(rest) : 0);
}

Result<Demand> MakeDemand(const ModelProfile& model, const WorkloadOptions& options, double share) {
  Demand demand;
  demand.share = share;
  if (options.rows == "mixed") {
    demand.rows = SmallOnesFirst(LargestBatch(model));
  } else if (const auto rows = ReadNumbers(options.rows)) {
    demand.rows = EvenMix(*rows);
  } else {
    return Bad("rows '" + options.rows + "': neither numbers, such as 1 or 1,2,4, nor \"mixed\"");
  }
  const std::vector<uint32_t> lengths = Lengths(model);
  const uint32_t longest = lengths.back();
  if (longest == 0 || options.lengths == "longest") {
    demand.sequences = EvenMix(std::span(&longest, 1));
  } else if (options.lengths == "all") {
    demand.sequences = EvenMix(lengths);
  } else if (options.lengths == "random") {
    std::vector<uint32_t> any;
    for (uint32_t length = 1; length <= longest; ++length) any.push_back(length);
    demand.sequences = EvenMix(any);
  } else if (const auto wanted = ReadNumbers(options.lengths)) {
    if (const uint32_t most = *std::max_element(wanted->begin(), wanted->end()); most > longest) {
      return Bad(fmt::format("length {}: the longest of {} is {}", most, model.name, longest));
    }
    demand.sequences = EvenMix(*wanted);
  } else {
    return Bad("lengths '" + options.lengths + R"(': neither numbers, nor "longest", "all" or "random")");
  }
  return demand;
}

double MeanSoloUs(const ModelProfile& model, const Demand& demand) {
  double mean_us = 0;
  for (const MixPart& rows : demand.rows) {
    for (const MixPart& length : demand.sequences) {
      mean_us += rows.share * length.share * SoloUs(model, rows.value, length.value);
    }
  }
  return mean_us;
}

// The arrivals of a trace, of the services in the order of `models`.
Result<std::vector<SimArrival>> FromTrace(const ArrivalTrace& trace, const std::vector<const ModelProfile*>& models,
                                          const std::string& path) {
  std::vector<uint32_t> service_of;
  for (const std::string& name : trace.services) {
    const auto model = std::find_if(models.begin(), models.end(), [&](const auto* m) { return m->name == name; });
    if (model == models.end()) return Bad(path + ": it has arrivals of " + name + ", which is none of --models");
    service_of.push_back(static_cast<uint32_t>(model - models.begin()));
  }
  std::vector<SimArrival> arrivals;
  arrivals.reserve(trace.arrivals.size());
  for (const TraceArrival& arrival : trace.arrivals) {
    const uint32_t service = service_of[arrival.service];
    const uint32_t longest = Lengths(*models[service]).back();
    if (arrival.sequence > longest) {
      return Bad(fmt::format("{}: a query of {} has length {}; its longest is {}", path, models[service]->name,
                             arrival.sequence, longest));
    }
    arrivals.push_back({arrival.at_ns, service, arrival.rows, arrival.sequence == 0 ? longest : arrival.sequence});
  }
  return arrivals;
}

}  // namespace

Result<uint32_t> FindModel(const PredictorFile& file, const std::string& name) {
  const auto& models = file.subject.models;
  const auto model = std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.name == name; });
  if (model != models.end()) return static_cast<uint32_t>(model - models.begin());
  std::string known;
  for (const ModelProfile& m : models) known += " " + m.name;
  return Bad("the predictor has no model \"" + name + "\"; it has" + known);
}

Result<Workload> MakeWorkload(const PredictorFile& file, const WorkloadOptions& options) {
  const size_t count = options.models.size();
  if (count == 0 || count > kMaxServices) return Bad("name 1 to " + std::to_string(kMaxServices) + " models");
  if (!options.shares.empty() && options.shares.size() != count) return Bad("name as many shares as models");
  if (options.qos_ns.size() > 1 && options.qos_ns.size() != count) {
    return Bad("name one latency target, or as many as models");
  }
  Workload workload;
  workload.models_ = options.models;
  std::vector<const ModelProfile*> models;
  double slowest_us = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto index = FindModel(file, options.models[i]);
    if (!index) return Error(index.error());
    const ModelProfile& model = file.subject.models[*index];
    if (std::find(models.begin(), models.end(), &model) != models.end()) return Bad(model.name + " is named twice");
    models.push_back(&model);
    for (const BucketProfile& bucket : model.buckets) slowest_us = std::max(slowest_us, bucket.whole_us());
    SimService& service = workload.services_.emplace_back();
    service.model = *index;
    service.max_batch = options.max_batch;
    const double share = options.shares.empty() ? 1 : options.shares[i];
    if (!(share > 0) || !std::isfinite(share)) return Bad("shares are positive numbers");
    auto demand = MakeDemand(model, options, share);
    if (!demand) return Error(demand.error());
    workload.demands_.push_back(std::move(*demand));
  }
  for (size_t i = 0; i < count; ++i) {
    workload.services_[i].qos_ns = options.qos_ns.empty() ? static_cast<uint64_t>(slowest_us * options.qos_factor * 1e3)
                                                          : options.qos_ns[options.qos_ns.size() > 1 ? i : 0];
  }

  workload.process_ = options.process;
  const auto kind = std::find(kArrivalNames.begin(), kArrivalNames.end(), options.arrivals);
  if (kind != kArrivalNames.end()) {
    workload.process_.kind = static_cast<ArrivalKind>(kind - kArrivalNames.begin());
    double sum_us = 0, shares = 0;
    for (size_t i = 0; i < count; ++i) {
      sum_us += workload.demands_[i].share * MeanSoloUs(*models[i], workload.demands_[i]);
      shares += workload.demands_[i].share;
    }
    workload.mean_solo_s_ = sum_us / shares * 1e-6;
    return workload;
  }
  const auto trace = ReadArrivalTrace(options.arrivals);
  if (!trace) return Error(trace.error().WithContext("arrivals (poisson, bursts, diurnal or a file)"));
  auto recorded = FromTrace(*trace, models, options.arrivals);
  if (!recorded) return Error(recorded.error());
  if (trace->seconds() <= 0) return Bad(options.arrivals + ": all arrivals are at 0; there is no rate");
  double sum_us = 0;
  for (const SimArrival& arrival : *recorded)
    sum_us += SoloUs(*models[arrival.service], arrival.rows, arrival.sequence);
  workload.mean_solo_s_ = sum_us / static_cast<double>(recorded->size()) * 1e-6;
  workload.recorded_per_s_ = static_cast<double>(recorded->size()) / trace->seconds();
  workload.recorded_ = std::move(*recorded);
  return workload;
}

Result<std::vector<SimArrival>> Workload::At(double rate_per_s, double seconds, uint64_t seed) const {
  if (recorded_.empty()) return DrawArrivals(process_, rate_per_s, seconds, demands_, seed);
  std::vector<SimArrival> arrivals = recorded_;
  const double stretch = recorded_per_s_ / rate_per_s;
  if (std::abs(stretch - 1) < 1e-12) return arrivals;
  for (SimArrival& arrival : arrivals) {
    arrival.at_ns = static_cast<uint64_t>(static_cast<double>(arrival.at_ns) * stretch);
  }
  return arrivals;
}

}  // namespace abacus::bench
