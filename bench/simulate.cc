// simulate: policies against each other on a recorded device, without it. See simulator.h.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <map>

#include "base/duration.h"
#include "base/file.h"
#include "base/log.h"
#include "bench/bench.h"
#include "bench/limit.h"
#include "bench/policy_choice.h"
#include "bench/simulator.h"
#include "client/arrival_trace.h"

namespace abacus::bench {
namespace {

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

// A list of numbers, or a path, as one field.
std::string CsvText(std::string text) {
  std::replace(text.begin(), text.end(), ',', '+');
  return text;
}

// One run, and where it stands in the comparison.
struct Run {
  double load = 0;
  double rate_per_s = 0;
  const PolicyChoice* policy = nullptr;
  uint64_t seed = 0;
  SimResult result;
};

// What several seeds gave: the mean, and the lowest and the highest.
struct Spread {
  double sum = 0, low = 0, high = 0;
  size_t count = 0;
  void Add(double value) {
    low = count == 0 ? value : std::min(low, value);
    high = count == 0 ? value : std::max(high, value);
    sum += value;
    ++count;
  }
  double mean() const { return count == 0 ? 0 : sum / static_cast<double>(count); }
};

class Comparison {
 public:
  Comparison(const SimulateOptions& options, const PredictorFile& file, const Workload& workload,
             std::vector<PolicyChoice> policies)
      : options_(options), file_(file), workload_(workload), policies_(std::move(policies)) {}

  Status OpenCsv();
  Status Loads();
  Status Limits();
  Status SaveTrace() const;

 private:
  double RateOf(double load) const { return load / workload_.mean_solo_s(); }
  Result<Run> Simulate(double load, const PolicyChoice& policy, uint64_t seed, double give_up, uint32_t timeline) const;
  void PrintHeader(const char* what) const;
  void PrintFigures(const std::vector<Run>& runs) const;
  void WriteCsv(const Run& run);

  const SimulateOptions& options_;
  const PredictorFile& file_;
  const Workload& workload_;
  const std::vector<PolicyChoice> policies_;
  std::ofstream csv_;
};

Status Comparison::OpenCsv() {
  if (options_.csv.empty()) return Status::Ok();
  csv_.open(options_.csv);
  if (!csv_) return {StatusCode::kUnavailable, "cannot write " + options_.csv};
  csv_ << "models,rows,lengths,arrivals,load,rate_per_s,policy,packing,seed,service,qos_ms,sent,in_time,late,refused,"
          "violation,goodput_per_s,p50_ms,p99_ms,rows_per_job,padding,rounds,rounds_over,rounds_several,margin,busy\n";
  return Status::Ok();
}

Result<Run> Comparison::Simulate(double load, const PolicyChoice& policy, uint64_t seed, double give_up,
                                 uint32_t timeline) const {
  const auto arrivals = workload_.At(RateOf(load), options_.seconds, seed);
  if (!arrivals) return Error(arrivals.error());
  SimOptions sim;
  policy.Apply(&sim.scheduler);
  sim.scheduler.packing = options_.packing == "furthest" ? Packing::kFurthest : Packing::kBalanced;
  sim.scheduler.abandon = !options_.keep_late;
  sim.services = workload_.services();
  sim.seed = seed;
  sim.timeline = timeline;
  sim.give_up = give_up;
  auto result = bench::Simulate(file_, sim, *arrivals);
  if (!result) return Error(result.error());
  return Run{load, RateOf(load), &policy, seed, std::move(*result)};
}

void Comparison::PrintHeader(const char* what) const {
  fmt::print("{:>6} {:>9} {:<13} {}{:>9} {:>8} {:>8} {:>6} {:>7} {:>8} {:>6} {:>6} {:>6}  {}\n", "load", "queries/s",
             "policy", what, "good/s", "p50 ms", "p99 ms", "rows", "padding", "rounds", "groups", "over", "busy",
             fmt::format("violated: all, {}", fmt::join(workload_.models(), ", ")));
}

// The means over the seeds.
void Comparison::PrintFigures(const std::vector<Run>& runs) const {
  const auto mean = [&](const auto& of) {
    Spread spread;
    for (const Run& run : runs) spread.Add(of(run.result));
    return spread.mean();
  };
  const auto quantile_ms = [&](double q) {
    return mean([&](const SimResult& r) { return static_cast<double>(Quantile(r.total.latency_ns, q)) * 1e-6; });
  };
  fmt::print("{:>9.0f} {:>8.2f} {:>8.2f} {:>6.2f} {:>6.1f}% {:>8.0f} {:>5.1f}% {:>5.2f}% {:>5.1f}%  {:.3f}%",
             mean([](const SimResult& r) { return r.goodput_per_s(r.total); }), quantile_ms(0.5), quantile_ms(0.99),
             mean([](const SimResult& r) { return r.total.rows_per_job(); }),
             mean([](const SimResult& r) { return 100 * r.total.padding(); }),
             mean([](const SimResult& r) { return static_cast<double>(r.rounds); }),
             mean([](const SimResult& r) { return 100 * SimCounts::Share(r.rounds_several, r.rounds); }),
             mean([](const SimResult& r) { return 100 * SimCounts::Share(r.rounds_over, r.rounds); }),
             mean([](const SimResult& r) { return 100 * r.busy; }),
             mean([](const SimResult& r) { return 100 * r.total.violation(); }));
  for (size_t s = 0; s < workload_.models().size(); ++s) {
    fmt::print(" {:.3f}%", mean([&](const SimResult& r) { return 100 * r.services[s].violation(); }));
  }
  if (runs.size() > 1) {
    Spread worst;
    for (const Run& run : runs) worst.Add(100 * run.result.worst_violation());
    fmt::print("  (worst, of the seeds: {:.3f}% to {:.3f}%)", worst.low, worst.high);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

void Comparison::WriteCsv(const Run& run) {
  if (!csv_.is_open()) return;
  const auto write = [&](const std::string& name, uint64_t qos_ns, const SimCounts& counts) {
    csv_ << fmt::format(
        "{},{},{},{},{:.5f},{:.2f},{},{},{},{},{},{},{},{},{},{:.6f},{:.2f},{:.3f},{:.3f},{:.3f},{:.5f},{},{},{},"
        "{:.4f},{:.4f}\n",
        fmt::join(workload_.models(), "+"), CsvText(options_.workload.rows), CsvText(options_.workload.lengths),
        CsvText(options_.workload.arrivals), run.load, run.rate_per_s, run.policy->text, options_.packing, run.seed,
        name, static_cast<double>(qos_ns) * 1e-6, counts.sent, counts.in_time, counts.late, counts.refused,
        counts.violation(), run.result.goodput_per_s(counts),
        static_cast<double>(Quantile(counts.latency_ns, 0.5)) * 1e-6,
        static_cast<double>(Quantile(counts.latency_ns, 0.99)) * 1e-6, counts.rows_per_job(), counts.padding(),
        run.result.rounds, run.result.rounds_over, run.result.rounds_several, run.result.margin, run.result.busy);
  };
  uint64_t longest_ns = 0;
  for (const SimService& service : workload_.services()) longest_ns = std::max(longest_ns, service.qos_ns);
  write("total", longest_ns, run.result.total);
  for (size_t s = 0; s < workload_.models().size(); ++s) {
    write(workload_.models()[s], workload_.services()[s].qos_ns, run.result.services[s]);
  }
  csv_.flush();
}

Status Comparison::Loads() {
  std::vector<double> loads = options_.loads;
  if (loads.empty() && workload_.recorded()) loads = {workload_.recorded_rate_per_s() * workload_.mean_solo_s()};
  if (loads.empty()) loads = {0.5, 1, 1.5, 2, 3, 4, 6, 8};
  PrintHeader("");
  for (const double load : loads) {
    for (const PolicyChoice& policy : policies_) {
      const bool last = load == loads.back() && &policy == &policies_.back();
      std::vector<Run> runs;
      for (uint64_t seed = options_.seed; seed < options_.seed + options_.seeds; ++seed) {
        auto run = Simulate(load, policy, seed, 1, last && seed == options_.seed ? options_.timeline : 0);
        if (!run) return run.error();
        WriteCsv(*run);
        runs.push_back(std::move(*run));
      }
      fmt::print("{:>6.2f} {:>9.0f} {:<13} ", load, RateOf(load), policy.text);
      PrintFigures(runs);
      if (last && options_.timeline > 0) {
        PrintTimeline(runs.front().result, workload_.models(), options_.timeline);
      }
    }
  }
  return Status::Ok();
}

Status Comparison::Limits() {
  fmt::print("the highest load at which every service has at most {} % violations, of {} seed(s):\n\n",
             100 * options_.find_limit, options_.seeds);
  PrintHeader(fmt::format("{:>19} ", "lowest and highest").c_str());
  for (const PolicyChoice& policy : policies_) {
    std::vector<Run> runs;
    Spread limits;
    LimitSearch search;
    for (uint64_t seed = options_.seed; seed < options_.seed + options_.seeds; ++seed) {
      // The run at the highest load that passed is kept: its figures are those of the limit.
      Run best;
      best.policy = &policy;
      best.seed = seed;
      best.result.services.resize(workload_.services().size());
      const auto limit = HighestLoad(search, [&](double load) -> Result<bool> {
        auto run = Simulate(load, policy, seed, options_.find_limit, 0);
        if (!run) return Error(run.error());
        const bool passed = !run->result.gave_up && run->result.worst_violation() <= options_.find_limit;
        if (passed) best = std::move(*run);
        return passed;
      });
      if (!limit) return limit.error();
      WriteCsv(best);
      limits.Add(*limit);
      runs.push_back(std::move(best));
      // The next seed's is near.
      if (*limit > search.lowest) search.start = *limit;
      search.step = 1.03;
    }
    fmt::print("{:>6.2f} {:>9.0f} {:<13} {:>8.2f} to {:>7.2f} ", limits.mean(), RateOf(limits.mean()), policy.text,
               limits.low, limits.high);
    PrintFigures(runs);
  }
  return Status::Ok();
}

Status Comparison::SaveTrace() const {
  if (options_.save_trace.empty()) return Status::Ok();
  const double load = options_.loads.empty() ? 1 : options_.loads.front();
  const auto arrivals = workload_.At(RateOf(load), options_.seconds, options_.seed);
  if (!arrivals) return arrivals.error();
  ArrivalTrace trace{workload_.models(), {}};
  for (const SimArrival& arrival : *arrivals) {
    trace.arrivals.push_back({arrival.at_ns, arrival.service, arrival.rows, arrival.sequence});
  }
  return WriteWholeFile(options_.save_trace, FormatArrivalTrace(trace));
}

Status Compare(const SimulateOptions& options) {
  const auto file = LoadPredictor(options.predictor);
  if (!file) return file.error();
  const auto workload = MakeWorkload(*file, options.workload);
  if (!workload) return workload.error();
  auto policies = ParsePolicyChoices(options.policies);
  if (!policies) return policies.error();
  InitLog("simulate", "error");
  std::vector<std::string> targets;
  for (const SimService& service : workload->services()) targets.push_back(FormatDuration(service.qos_ns));
  fmt::print("{} on {}: a query takes {:.2f} ms alone on average; targets {}; {} arrivals of {} rows\n",
             fmt::join(options.workload.models, " + "), file->subject.device, workload->mean_solo_s() * 1e3,
             fmt::join(targets, ", "), options.workload.arrivals,
             workload->recorded() ? "recorded" : options.workload.rows);
  fmt::print("load 1.0 is what the GPU does running one query after another: {:.0f} queries/s\n\n",
             1 / workload->mean_solo_s());
  Comparison comparison(options, *file, *workload, std::move(*policies));
  ABACUS_RETURN_IF_ERROR(comparison.SaveTrace());
  ABACUS_RETURN_IF_ERROR(comparison.OpenCsv());
  return options.find_limit > 0 ? comparison.Limits() : comparison.Loads();
}

}  // namespace

int RunSimulate(const SimulateOptions& options) {
  const Status status = Compare(options);
  if (status.ok()) return 0;
  fmt::print(stderr, "abacus-bench simulate: {}\n", status.message());
  return 1;
}

}  // namespace abacus::bench
