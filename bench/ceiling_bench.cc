// ceiling: what the policy "abacus" reaches with full queues, over what the best fixed choice of batches and cuts does.
//
// The ceiling is that of ceiling.h, of the predictor. The policy runs in the simulator with the same predictor as truth
// and no errors, with queues of one-row queries that never run dry and targets that are far away. Both count the same
// worth: the rows that completed, each at the cost of its service's most efficient batch.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <string_view>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "bench/bench.h"
#include "bench/ceiling.h"
#include "bench/simulator.h"
#include "controller/schedule/service_predictor.h"

namespace abacus::bench {
namespace {

constexpr uint64_t kNoTargetNs = 1'000'000 * kNsPerSecond;
constexpr uint32_t kMostIntervals = 32;

// "a+b": indices of models of the file.
Result<std::vector<uint32_t>> ReadGroup(const PredictorFile& file, const std::string& text) {
  std::vector<uint32_t> group;
  for (std::string_view rest = text; !rest.empty();) {
    const auto model = FindModel(file, std::string(TakePart(&rest, '+')));
    if (!model) return Error(model.error());
    if (std::count(group.begin(), group.end(), *model) > 0) {
      return Error(StatusCode::kInvalidArgument, text + ": a model is named twice");
    }
    group.push_back(*model);
  }
  return group;
}

std::vector<std::vector<uint32_t>> AllPairs(const PredictorFile& file) {
  std::vector<std::vector<uint32_t>> pairs;
  for (uint32_t b = 1; b < file.subject.models.size(); ++b) {
    for (uint32_t a = 0; a < b; ++a) pairs.push_back({a, b});
  }
  return pairs;
}

// The predictor as the lane of a controller has it, with no round behind it.
Result<ServicePredictor> Connect(const PredictorFile& file, const std::vector<uint32_t>& group) {
  ServicePredictor predictor = ServicePredictor::Use(file);
  for (uint32_t s = 0; s < group.size(); ++s) {
    const ModelProfile& model = file.subject.models[group[s]];
    ServicePredictor::WorkerFacts facts{file.subject.device, file.subject.libraries, model.structure, {}};
    for (const BucketProfile& bucket : model.buckets) {
      facts.ranges.push_back({bucket.operators, static_cast<uint64_t>(bucket.whole_us() * 1e3), bucket.operators_at});
    }
    predictor.WorkerUp(ServiceId(s), model.name, SpecOf(model), facts);
    const OperatorRange whole = {ServiceId(s), 0, 0, model.buckets.front().operators};
    if (!predictor.model().Predict({&whole, 1}).trained) {
      return Error(StatusCode::kInvalidArgument, "the predictor does not fit its own model " + model.name);
    }
  }
  return predictor;
}

// The shapes of the longest sequence, cut into this many intervals.
std::vector<CeilingService> MakeServices(const PredictorFile& file, const std::vector<uint32_t>& group,
                                         const LatencyModel& latency, const std::vector<int64_t>& batches,
                                         uint32_t intervals) {
  std::vector<CeilingService> services;
  for (uint32_t s = 0; s < group.size(); ++s) {
    CeilingService& service = services.emplace_back();
    service.id = ServiceId(s);
    const auto& buckets = file.subject.models[group[s]].buckets;
    int64_t longest = 0;
    for (const BucketProfile& bucket : buckets) longest = std::max(longest, bucket.sequence);
    for (uint32_t b = 0; b < buckets.size(); ++b) {
      if (buckets[b].sequence != longest) continue;
      if (!batches.empty() && std::count(batches.begin(), batches.end(), buckets[b].batch) == 0) continue;
      service.shapes.push_back({b, static_cast<uint32_t>(buckets[b].batch),
                                EvenCuts(latency, service.id, b, buckets[b].operators_at, intervals)});
    }
  }
  return services;
}

struct Compared {
  Ceiling ceiling;
  uint32_t intervals = 0;
  double policy = 0;  // its worth per time
  SimResult run;
};

Result<Compared> CompareGroup(const PredictorFile& file, const std::vector<uint32_t>& group,
                              const CeilingOptions& options) {
  const auto predictor = Connect(file, group);
  if (!predictor) return Error(predictor.error());
  const LatencyModel& latency = predictor->model();
  Compared compared;
  compared.intervals = options.cuts > 0 ? options.cuts : kMostIntervals;
  std::vector<CeilingService> services = MakeServices(file, group, latency, options.batches, compared.intervals);
  while (options.cuts == 0 && compared.intervals > 1 && CeilingRounds(services) > options.most_rounds) {
    services = MakeServices(file, group, latency, options.batches, --compared.intervals);
  }
  auto ceiling = FindCeiling(latency, services, options.most_rounds);
  if (!ceiling) return Error(ceiling.error());
  compared.ceiling = std::move(*ceiling);

  SimOptions sim;
  sim.scheduler.policy = "abacus";
  sim.scheduler.abandon = false;
  sim.errors = false;
  uint32_t most_rows = 0;
  for (const CeilingService& service : services) {
    for (const CeilingShape& shape : service.shapes) most_rows = std::max(most_rows, shape.rows);
  }
  for (const uint32_t model : group) sim.services.push_back({model, kNoTargetNs, most_rows, 1});
  const auto measure_ns = static_cast<uint64_t>(options.seconds * 1e9);
  auto run = SimulateFull(file, sim, {options.queued, kNsPerSecond, measure_ns});
  if (!run) return Error(run.error());
  compared.run = std::move(*run);
  double worth_ns = 0;
  for (size_t s = 0; s < group.size(); ++s) {
    worth_ns += static_cast<double>(compared.run.services[s].rows_done) * compared.ceiling.worth_of_row_ns[s];
  }
  compared.policy = worth_ns / static_cast<double>(std::max<uint64_t>(1, compared.run.end_ns));
  return compared;
}

void PrintCycle(const PredictorFile& file, const std::vector<uint32_t>& group, const Ceiling& ceiling) {
  for (const CeilingRound& round : ceiling.cycle) {
    fmt::print("  {:>7.0f} us:", static_cast<double>(round.predicted_ns) * 1e-3);
    for (const OperatorRange& range : round.ranges) {
      const ModelProfile& model = file.subject.models[group[range.service.value()]];
      const BucketProfile& bucket = model.buckets[range.bucket];
      fmt::print("  {} batch {} [{}, {}) of {}", model.name, bucket.batch, range.first, range.last, bucket.operators);
    }
    fmt::print("\n");
  }
}

Status Compare(const CeilingOptions& options) {
  const auto file = LoadPredictor(options.predictor);
  if (!file) return file.error();
  std::vector<std::vector<uint32_t>> groups;
  for (const std::string& text : options.groups) {
    auto group = ReadGroup(*file, text);
    if (!group) return group.error().WithContext("--groups");
    groups.push_back(std::move(*group));
  }
  if (groups.empty()) groups = AllPairs(*file);
  InitLog("ceiling", "error");
  std::ofstream csv;
  if (!options.csv.empty()) {
    csv.open(options.csv);
    if (!csv) return {StatusCode::kUnavailable, "cannot write " + options.csv};
    csv << "group,cuts,states,rounds,ceiling,abacus,ratio,ceiling_rows_per_s,abacus_rows_per_s,rows_per_job\n";
  }
  fmt::print("{:<34} {:>5} {:>9} {:>8} {:>8} {:>7}  {}\n", "group", "cuts", "rounds", "ceiling", "abacus", "ratio",
             "rows/s of each service: ceiling; abacus (rows a job)");
  double sum = 0, lowest = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<std::string> names;
    for (const uint32_t model : groups[g]) names.push_back(file->subject.models[model].name);
    const std::string name = fmt::format("{}", fmt::join(names, "+"));
    const auto compared = CompareGroup(*file, groups[g], options);
    if (!compared) return compared.error().WithContext(name);
    const Ceiling& ceiling = compared->ceiling;
    const double ratio = compared->policy / ceiling.worth_per_time;
    std::vector<std::string> rows, best;
    for (size_t s = 0; s < names.size(); ++s) {
      const SimCounts& counts = compared->run.services[s];
      rows.push_back(fmt::format("{:.0f} ({:.1f})",
                                 static_cast<double>(counts.rows_done) * 1e9 /
                                     static_cast<double>(std::max<uint64_t>(1, compared->run.end_ns)),
                                 counts.rows_per_job()));
      best.push_back(fmt::format("{:.0f}", ceiling.rows_per_s[s]));
    }
    fmt::print("{:<34} {:>5} {:>9} {:>8.3f} {:>8.3f} {:>7.3f}  {}; {}\n", name, compared->intervals, ceiling.rounds,
               ceiling.worth_per_time, compared->policy, ratio, fmt::join(best, ", "), fmt::join(rows, ", "));
    if (groups.size() == 1) PrintCycle(*file, groups[g], ceiling);
    std::fflush(stdout);
    if (csv.is_open()) {
      csv << fmt::format("{},{},{},{},{:.5f},{:.5f},{:.5f},{},{:.1f},{:.2f}\n", name, compared->intervals,
                         ceiling.states, ceiling.rounds, ceiling.worth_per_time, compared->policy, ratio,
                         fmt::join(best, "+"),
                         static_cast<double>(compared->run.total.rows_done) * 1e9 /
                             static_cast<double>(std::max<uint64_t>(1, compared->run.end_ns)),
                         compared->run.total.rows_per_job());
      csv.flush();
    }
    sum += ratio;
    lowest = g == 0 ? ratio : std::min(lowest, ratio);
  }
  fmt::print("\nratio: mean {:.3f}, lowest {:.3f}\n", sum / static_cast<double>(groups.size()), lowest);
  return Status::Ok();
}

}  // namespace

int RunCeiling(const CeilingOptions& options) {
  const Status status = Compare(options);
  if (status.ok()) return 0;
  fmt::print(stderr, "abacus-bench ceiling: {}\n", status.message());
  return 1;
}

}  // namespace abacus::bench
