// headroom: time of one decision of the policy "abacus" with a trained network behind it.
//
// Queries of every service wait, and some jobs ran in part; 64 cuts each, with deadlines drawn so that in some
// decisions all of them fit the headroom and in the others the furthest cut has to be searched. The network is a real
// one in size, with made-up weights: its values do not matter for its time, but they make groups worth forming.
#include <fmt/format.h>

#include <deque>
#include <nlohmann/json.hpp>
#include <random>

#include "base/clock.h"
#include "bench/bench.h"
#include "controller/schedule/headroom_policy.h"
#include "predictor/corrected_model.h"
#include "predictor/overlap_model.h"

namespace abacus::bench {
namespace {

constexpr uint32_t kOperators = 256;
constexpr double kWholeUs = 1000;

std::vector<uint32_t> Cuts() {
  std::vector<uint32_t> cuts;
  for (uint32_t i = 0; i <= kMaxCuts; ++i) cuts.push_back(i * kOperators / kMaxCuts);
  return cuts;
}

// A predictor for `services` models whose groups take about 70 % of the sum of their parts.
std::unique_ptr<OverlapModel> MakeModel(uint32_t services) {
  PredictorFile file;
  file.subject.device = file.subject.libraries = "bench";
  for (uint32_t s = 0; s < services; ++s) {
    ModelProfile model;
    model.name = "m" + std::to_string(s);
    BucketProfile bucket;
    bucket.operators = kOperators;
    bucket.operators_at = Cuts();
    for (const uint32_t op : bucket.operators_at) bucket.us.push_back(8 + kWholeUs * op / kOperators);
    model.buckets.push_back(bucket);
    file.subject.models.push_back(model);
  }
  std::mt19937 random(1);
  std::normal_distribution<float> small(0, 0.02f);
  size_t inputs = FeatureCount(services);
  for (const size_t outputs : {kHiddenWidth, kHiddenWidth, size_t{1}}) {
    MlpLayer layer;
    layer.inputs = inputs;
    layer.outputs = outputs;
    for (size_t i = 0; i < inputs * outputs; ++i) layer.weights.push_back(small(random));
    layer.bias.assign(outputs, outputs == 1 ? std::log(0.7f) : 0);
    file.layers.push_back(layer);
    inputs = outputs;
  }
  // Every set of models counts as trained.
  for (uint64_t bits = 1; bits < uint64_t{1} << services; ++bits) {
    TrainedSet set;
    for (uint32_t s = 0; s < services; ++s) {
      if ((bits >> s & 1) != 0) set.models.push_back(s);
    }
    file.trained.push_back(std::move(set));
  }
  auto model = OverlapModel::Create(std::move(file)).value();
  for (uint32_t s = 0; s < services; ++s) {
    OverlapModel::ServiceFacts facts{"bench", "bench", {}};
    facts.buckets.push_back({1, 0, kOperators, Cuts(), static_cast<uint64_t>(kWholeUs * 1e3)});
    if (const Status status = model->Connect(ServiceId(s), "m" + std::to_string(s), facts); !status.ok()) {
      fmt::print(stderr, "abacus-bench headroom: {}\n", status.message());
    }
  }
  return model;
}

// Queues of one decision. They point into themselves: moved, never copied.
struct Queues {
  Queues() = default;
  Queues(Queues&&) = default;
  Queues(const Queues&) = delete;

  std::deque<Job> unfinished;
  std::vector<std::vector<WaitingQuery>> waiting;
  std::vector<ServiceView> views;
};

Queues MakeQueues(uint32_t services, uint32_t queued, std::span<const WorkerRanges> buckets, std::mt19937* random) {
  Queues queues;
  queues.waiting.resize(services);
  // The headroom of the most urgent: from its own time alone to more than what all of them take together.
  std::uniform_real_distribution<double> slack_us(kWholeUs, kWholeUs * services * 1.3);
  const std::span<const uint32_t> cuts = buckets[0].cuts;
  std::uniform_int_distribution<size_t> cut(1, cuts.size() - 2);
  const double urgent_us = slack_us(*random);
  uint64_t order = 0;
  for (uint32_t s = 0; s < services; ++s) {
    const Job* unfinished = nullptr;
    for (uint32_t i = 0; i < queued; ++i) {
      WaitingQuery query;
      query.order = ++order;
      query.rows = 1;
      query.deadline_ns = static_cast<uint64_t>((urgent_us + static_cast<double>(s + i * services) * 100) * 1e3);
      if (i > 0 || (*random)() % 2 != 0) {
        queues.waiting[s].push_back(query);
        continue;
      }
      Job& job = queues.unfinished.emplace_back();
      job.service = ServiceId(s);
      job.operators = kOperators;
      job.next_operator = cuts[cut(*random)];
      job.queries.push_back(query);
      unfinished = &job;
    }
    queues.views.push_back({ServiceId(s), true, nullptr, unfinished, queues.waiting[s], buckets});
  }
  return queues;
}

}  // namespace

int RunHeadroom(const HeadroomOptions& options) {
  constexpr size_t kScenes = 64;  // different queues, taken in turn
  constexpr double kMargin = 0.05;
  const std::vector<WorkerRanges> buckets = {{kOperators, static_cast<uint64_t>(kWholeUs * 1e3), Cuts()}};
  nlohmann::json results = nlohmann::json::array();
  fmt::print("{:>9} {:<10} {:>10} {:>10} {:>10} {:>10} {:>14}\n", "services", "packing", "median us", "p90 us",
             "p99 us", "max us", "ranges a round");
  for (const uint32_t services : options.services) {
    const auto trained = MakeModel(services);
    const CorrectedModel model(trained.get());  // as the scheduler asks it
    std::mt19937 random(7);
    std::deque<Queues> scenes;
    for (size_t i = 0; i < kScenes; ++i) scenes.push_back(MakeQueues(services, options.queued, buckets, &random));
    for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
      const HeadroomPolicy policy(packing);
      std::vector<uint64_t> samples_ns;
      samples_ns.reserve(options.decisions);
      uint64_t ranges = 0;
      for (uint64_t i = 0; i < options.decisions + options.decisions / 10; ++i) {
        const Snapshot snapshot = {0, scenes[i % kScenes].views, &model, kMargin};
        const uint64_t begin_ns = MonotonicNs();
        const Plan plan = policy.Next(snapshot);
        const uint64_t end_ns = MonotonicNs();
        if (i < options.decisions / 10) continue;
        samples_ns.push_back(end_ns - begin_ns);
        ranges += plan.assignments.size();
      }
      std::sort(samples_ns.begin(), samples_ns.end());
      const double mean_ranges = static_cast<double>(ranges) / static_cast<double>(samples_ns.size());
      const char* name = packing == Packing::kBalanced ? "balanced" : "furthest";
      fmt::print("{:>9} {:<10} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>14.2f}\n", services, name,
                 Quantile(samples_ns, 0.5) * 1e-3, Quantile(samples_ns, 0.9) * 1e-3, Quantile(samples_ns, 0.99) * 1e-3,
                 static_cast<double>(samples_ns.back()) * 1e-3, mean_ranges);
      results.push_back({{"services", services},
                         {"packing", name},
                         {"queued", options.queued},
                         {"cuts", kMaxCuts},
                         {"decisions", options.decisions},
                         {"median_ns", Quantile(samples_ns, 0.5)},
                         {"p90_ns", Quantile(samples_ns, 0.9)},
                         {"p99_ns", Quantile(samples_ns, 0.99)},
                         {"max_ns", samples_ns.back()},
                         {"ranges_per_round", mean_ranges}});
    }
  }
  return WriteJson(options.json, {{"benchmark", "headroom"}, {"results", results}}) ? 0 : 1;
}

}  // namespace abacus::bench
