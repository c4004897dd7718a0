// simulate: policies against each other on a recorded device, without it. See simulator.h.
#include <fmt/format.h>

#include <fstream>
#include <map>

#include "base/log.h"
#include "bench/bench.h"
#include "bench/simulator.h"

namespace abacus::bench {
namespace {

struct Mix {
  std::vector<uint32_t> models;
  std::vector<std::vector<uint32_t>> buckets;
  double mean_solo_s = 0;  // of a query
  uint64_t qos_ns = 0;
};

Result<Mix> MakeMix(const PredictorFile& file, const SimulateOptions& options) {
  Mix mix;
  double slowest_us = 0, sum_us = 0;
  for (const std::string& name : options.models) {
    const auto& models = file.subject.models;
    const auto model = std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.name == name; });
    if (model == models.end()) {
      std::string known;
      for (const ModelProfile& m : models) known += " " + m.name;
      return Error(StatusCode::kInvalidArgument, "the predictor has no model \"" + name + "\"; it has" + known);
    }
    mix.models.push_back(static_cast<uint32_t>(model - models.begin()));
    auto& buckets = mix.buckets.emplace_back();
    double mean_us = 0;
    for (uint32_t b = 0; b < model->buckets.size(); ++b) {
      const BucketProfile& bucket = model->buckets[b];
      slowest_us = std::max(slowest_us, bucket.whole_us());
      if (!options.batches.empty() && std::count(options.batches.begin(), options.batches.end(), bucket.batch) == 0) {
        continue;
      }
      buckets.push_back(b);
      mean_us += bucket.whole_us();
    }
    if (buckets.empty()) return Error(StatusCode::kInvalidArgument, name + " has no bucket of these batch sizes");
    sum_us += mean_us / static_cast<double>(buckets.size());
  }
  mix.mean_solo_s = sum_us / static_cast<double>(options.models.size()) * 1e-6;
  mix.qos_ns = static_cast<uint64_t>(slowest_us * options.qos_factor * 1e3);
  return mix;
}

// The first rounds, one line each: when, and one column a service with the operators that ran.
void PrintTimeline(const SimResult& result, const std::vector<std::string>& models, uint32_t rounds) {
  fmt::print("\n{:>6} {:>10} {:>9} {:>9}  ", "round", "start ms", "took us", "predicted");
  for (const std::string& model : models) fmt::print("{:<22}", model);
  fmt::print("\n");
  // By round: a round's own event comes before that of its last range.
  std::map<uint64_t, std::vector<std::string>> columns;
  for (const TraceEvent& event : result.trace) {
    if (event.kind == TraceEvent::kRange) {
      columns.try_emplace(event.round, models.size(), "-").first->second[event.service.value()] =
          fmt::format("b{} [{}, {}) {:.0f} us", event.bucket, event.first, event.last,
                      static_cast<double>(event.end_ns - event.begin_ns) * 1e-3);
    }
  }
  uint64_t first_ns = 0;
  for (const TraceEvent& event : result.trace) {
    if (event.kind == TraceEvent::kRound) {
      if (first_ns == 0) first_ns = event.begin_ns;
      fmt::print(
          "{:>6} {:>10.3f} {:>9.0f} {:>9.0f}  ", event.round, static_cast<double>(event.begin_ns - first_ns) * 1e-6,
          static_cast<double>(event.end_ns - event.begin_ns) * 1e-3, static_cast<double>(event.predicted_ns) * 1e-3);
      for (const std::string& column : columns[event.round]) fmt::print("{:<22}", column);
      fmt::print("\n");
      if (--rounds == 0) return;
    }
  }
}

}  // namespace

int RunSimulate(const SimulateOptions& options) {
  const auto fail = [](const Status& status) {
    fmt::print(stderr, "abacus-bench simulate: {}\n", status.message());
    return 1;
  };
  const auto file = LoadPredictor(options.predictor);
  if (!file) return fail(file.error());
  const auto mix = MakeMix(*file, options);
  if (!mix) return fail(mix.error());
  InitLog("simulate", "error");
  fmt::print("{} on {}: a query takes {:.2f} ms alone on average, target {:.2f} ms, {} s, seed {}\n",
             fmt::join(options.models, " + "), file->subject.device, mix->mean_solo_s * 1e3,
             static_cast<double>(mix->qos_ns) * 1e-6, options.seconds, options.seed);
  fmt::print("load 1.0 is what the GPU does running one query after another: {:.0f} queries/s\n\n",
             1 / mix->mean_solo_s);
  fmt::print("{:>5} {:>9} {:<9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>6}\n", "load", "queries/s", "policy",
             "sent", "violated", "in time/s", "p50 ms", "p99 ms", "rounds", "groups", "over", "busy");
  std::ofstream csv;
  if (!options.csv.empty()) {
    csv.open(options.csv);
    if (!csv) return fail({StatusCode::kUnavailable, "cannot write " + options.csv});
    csv << "models,batches,load,rate_per_s,policy,packing,sent,in_time,late,refused,violation,goodput_per_s,"
           "p50_ms,p99_ms,rounds,rounds_over,margin\n";
  }
  for (const double load : options.loads) {
    const double rate_per_s = load / mix->mean_solo_s;
    const auto arrivals = PoissonArrivals(rate_per_s, options.seconds, mix->buckets, options.seed);
    for (const std::string& policy : options.policies) {
      SimOptions sim;
      sim.policy = policy;
      sim.packing = options.packing == "furthest" ? Packing::kFurthest : Packing::kBalanced;
      sim.abandon = !options.keep_late;
      sim.models = mix->models;
      sim.qos_ns.assign(mix->models.size(), mix->qos_ns);
      sim.seed = options.seed;
      if (load == options.loads.back() && policy == options.policies.back()) sim.timeline = options.timeline;
      const auto result = Simulate(*file, sim, arrivals);
      if (!result) return fail(result.error());
      const double p50_ms = static_cast<double>(Quantile(result->latency_ns, 0.5)) * 1e-6;
      const double p99_ms = static_cast<double>(Quantile(result->latency_ns, 0.99)) * 1e-6;
      const auto share = [](uint64_t part, uint64_t whole) {
        return whole == 0 ? 0.0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
      };
      const double goodput_per_s =
          static_cast<double>(result->in_time) * 1e9 / static_cast<double>(std::max<uint64_t>(1, result->end_ns));
      fmt::print(
          "{:>5.2f} {:>9.0f} {:<9} {:>8} {:>8.3f}% {:>9.0f} {:>9.2f} {:>9.2f} {:>8} {:>6.1f}% {:>6.2f}% {:>5.1f}%\n",
          load, rate_per_s, policy, result->sent, result->violation() * 100, goodput_per_s, p50_ms, p99_ms,
          result->rounds, share(result->rounds_several, result->rounds), share(result->rounds_over, result->rounds),
          result->busy * 100);
      if (csv.is_open()) {
        csv << fmt::format("{},{},{},{:.1f},{},{},{},{},{},{},{:.6f},{:.1f},{:.3f},{:.3f},{},{},{:.4f}\n",
                           fmt::join(options.models, "+"), fmt::join(options.batches, "+"), load, rate_per_s, policy,
                           options.packing, result->sent, result->in_time, result->late, result->refused,
                           result->violation(), goodput_per_s, p50_ms, p99_ms, result->rounds, result->rounds_over,
                           result->margin);
      }
      if (sim.timeline > 0) PrintTimeline(*result, options.models, sim.timeline);
    }
  }
  return 0;
}

}  // namespace abacus::bench
