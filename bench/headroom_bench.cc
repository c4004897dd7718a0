// headroom: time of one decision of the policy "abacus" with a trained network behind it.
//
// Queries of one row wait at every service, and some jobs ran in part, with deadlines drawn so that in some decisions
// all of them fit the headroom and in the others batch and cut have to be searched. The network is a real one in size,
// with made-up weights: its values do not matter for its time, but they make groups worth forming. Each further row of
// a batch costs a tenth of the first, so batches are worth forming, too.
#include <fmt/format.h>

#include <deque>
#include <nlohmann/json.hpp>
#include <random>

#include "base/clock.h"
#include "bench/bench.h"
#include "controller/schedule/policy.h"
#include "predictor/corrected_model.h"
#include "predictor/overlap_model.h"

namespace abacus::bench {
namespace {

constexpr uint32_t kOperators = 256;
constexpr double kOneRowUs = 1000, kRowUs = 100;  // a pass of one row, and each further row of its batch

// How large one decision is.
struct Scale {
  uint32_t services = 0;
  uint32_t queued = 0;
  uint32_t batch_sizes = 0;
  uint32_t cuts = 0;

  int64_t batch(uint32_t bucket) const { return int64_t{1} << bucket; }
  double whole_us(uint32_t bucket) const { return kOneRowUs + kRowUs * static_cast<double>(batch(bucket) - 1); }
  std::vector<uint32_t> CutPoints() const {
    std::vector<uint32_t> points;
    for (uint32_t i = 0; i <= cuts; ++i) points.push_back(i * kOperators / cuts);
    return points;
  }
};

// A predictor for as many models whose groups take about 70 % of the sum of their parts.
std::unique_ptr<OverlapModel> MakeModel(const Scale& scale) {
  PredictorFile file;
  file.subject.device = file.subject.libraries = "bench";
  for (uint32_t s = 0; s < scale.services; ++s) {
    ModelProfile model;
    model.name = "m" + std::to_string(s);
    for (uint32_t b = 0; b < scale.batch_sizes; ++b) {
      BucketProfile bucket;
      bucket.batch = scale.batch(b);
      bucket.operators = kOperators;
      bucket.operators_at = scale.CutPoints();
      for (const uint32_t op : bucket.operators_at) bucket.us.push_back(8 + scale.whole_us(b) * op / kOperators);
      model.buckets.push_back(bucket);
    }
    file.subject.models.push_back(model);
  }
  std::mt19937 random(1);
  std::normal_distribution<float> small(0, 0.02f);
  size_t inputs = FeatureCount(scale.services);
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
  for (uint64_t bits = 1; bits < uint64_t{1} << scale.services; ++bits) {
    TrainedSet set;
    for (uint32_t s = 0; s < scale.services; ++s) {
      if ((bits >> s & 1) != 0) set.models.push_back(s);
    }
    file.trained.push_back(std::move(set));
  }
  auto model = OverlapModel::Create(std::move(file)).value();
  for (uint32_t s = 0; s < scale.services; ++s) {
    OverlapModel::ServiceFacts facts{"bench", "bench", {}};
    for (uint32_t b = 0; b < scale.batch_sizes; ++b) {
      facts.buckets.push_back(
          {scale.batch(b), 0, kOperators, scale.CutPoints(), static_cast<uint64_t>((8 + scale.whole_us(b)) * 1e3)});
    }
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

Queues MakeQueues(const Scale& scale, const ModelSpec& spec, std::span<const WorkerRanges> buckets,
                  std::mt19937* random) {
  Queues queues;
  queues.waiting.resize(scale.services);
  // The headroom of the most urgent: from its own time alone to more than what all services take together with their
  // largest batches.
  const double all_us = scale.services * scale.whole_us(scale.batch_sizes - 1);
  std::uniform_real_distribution<double> slack_us(kOneRowUs, all_us * 1.3);
  const std::span<const uint32_t> cuts = buckets[0].cuts;
  std::uniform_int_distribution<size_t> cut(1, std::max<size_t>(1, cuts.size() - 2));
  std::uniform_int_distribution<uint32_t> any_bucket(0, scale.batch_sizes - 1);
  const double urgent_us = slack_us(*random);
  uint64_t order = 0;
  for (uint32_t s = 0; s < scale.services; ++s) {
    const Job* unfinished = nullptr;
    const auto query_at = [&](uint32_t i) {
      WaitingQuery query;
      query.order = ++order;
      query.rows = 1;
      query.deadline_ns = static_cast<uint64_t>((urgent_us + static_cast<double>(s + i * scale.services) * 100) * 1e3);
      return query;
    };
    // Half of the services have a job that ran in part: of the most urgent ones, as many as its batch holds.
    uint32_t taken = 0;
    if (cuts.size() > 2 && (*random)() % 2 == 0) {
      Job& job = queues.unfinished.emplace_back();
      job.service = ServiceId(s);
      job.bucket = any_bucket(*random);
      job.operators = kOperators;
      job.next_operator = cuts[cut(*random)];
      while (taken < std::min<uint32_t>(scale.queued, static_cast<uint32_t>(scale.batch(job.bucket)))) {
        job.queries.push_back(query_at(taken++));
      }
      unfinished = &job;
    }
    for (uint32_t i = taken; i < scale.queued; ++i) queues.waiting[s].push_back(query_at(i));
    ServiceView& view = queues.views.emplace_back();
    view.id = ServiceId(s);
    view.serving = true;
    view.unfinished = unfinished;
    view.waiting = queues.waiting[s];
    view.buckets = buckets;
    view.max_batch = static_cast<uint32_t>(spec.batch_sizes.back());
    view.spec = &spec;
    view.qos_ns = static_cast<uint64_t>(all_us * 2e3);
  }
  return queues;
}

// One line of the table, and its figures.
nlohmann::json Measure(const Scale& scale, const std::string& packing, uint64_t decisions) {
  constexpr size_t kScenes = 64;  // different queues, taken in turn
  constexpr double kMargin = 0.05;
  const auto trained = MakeModel(scale);
  const CorrectedModel model(trained.get());  // as the scheduler asks it
  ModelSpec spec;
  std::vector<WorkerRanges> buckets;
  for (uint32_t b = 0; b < scale.batch_sizes; ++b) {
    spec.batch_sizes.push_back(scale.batch(b));
    buckets.push_back({kOperators, static_cast<uint64_t>((8 + scale.whole_us(b)) * 1e3), scale.CutPoints()});
  }
  std::mt19937 random(7);
  std::deque<Queues> scenes;
  for (size_t i = 0; i < kScenes; ++i) scenes.push_back(MakeQueues(scale, spec, buckets, &random));
  SchedulerConfig config;
  config.policy = "abacus";
  config.packing = packing == "balanced" ? Packing::kBalanced : Packing::kFurthest;
  const std::unique_ptr<Policy> policy = MakePolicy(config).value();
  std::vector<uint64_t> samples_ns;
  samples_ns.reserve(decisions);
  uint64_t ranges = 0, started = 0, queries = 0;
  for (uint64_t i = 0; i < decisions + decisions / 10; ++i) {
    Snapshot snapshot;
    snapshot.services = scenes[i % kScenes].views;
    snapshot.latency = &model;
    snapshot.margin = kMargin;
    const uint64_t begin_ns = MonotonicNs();
    const Plan plan = policy->Next(snapshot);
    const uint64_t end_ns = MonotonicNs();
    if (i < decisions / 10) continue;
    samples_ns.push_back(end_ns - begin_ns);
    ranges += plan.assignments.size();
    for (const Assignment& assignment : plan.assignments) {
      started += assignment.resumes ? 0 : 1;
      queries += assignment.queries.size();
    }
  }
  std::sort(samples_ns.begin(), samples_ns.end());
  const auto mean = [](uint64_t sum, uint64_t count) {
    return count == 0 ? 0.0 : static_cast<double>(sum) / static_cast<double>(count);
  };
  fmt::print("{:>9} {:>7} {:>8} {:>5} {:<10} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>8.2f} {:>8.2f}\n",
             scale.services, scale.queued, scale.batch_sizes, scale.cuts, packing, Quantile(samples_ns, 0.5) * 1e-3,
             Quantile(samples_ns, 0.9) * 1e-3, Quantile(samples_ns, 0.99) * 1e-3,
             static_cast<double>(samples_ns.back()) * 1e-3, mean(ranges, decisions), mean(queries, started));
  return {{"services", scale.services},
          {"packing", packing},
          {"queued", scale.queued},
          {"batch_sizes", scale.batch_sizes},
          {"cuts", scale.cuts},
          {"decisions", decisions},
          {"median_ns", Quantile(samples_ns, 0.5)},
          {"p90_ns", Quantile(samples_ns, 0.9)},
          {"p99_ns", Quantile(samples_ns, 0.99)},
          {"max_ns", samples_ns.back()},
          {"ranges_per_round", mean(ranges, decisions)},
          {"queries_per_new_job", mean(queries, started)}};
}

}  // namespace

int RunHeadroom(const HeadroomOptions& options) {
  nlohmann::json results = nlohmann::json::array();
  fmt::print("{:>9} {:>7} {:>8} {:>5} {:<10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}\n", "services", "queued",
             "batches", "cuts", "packing", "median us", "p90 us", "p99 us", "max us", "ranges", "queries");
  for (const uint32_t batch_sizes : options.batch_sizes) {
    for (const uint32_t cuts : options.cuts) {
      for (const uint32_t queued : options.queued) {
        for (const uint32_t services : options.services) {
          for (const std::string& packing : options.packings) {
            results.push_back(Measure({services, queued, batch_sizes, cuts}, packing, options.decisions));
          }
        }
      }
    }
  }
  return WriteJson(options.json, {{"benchmark", "headroom"}, {"results", results}}) ? 0 : 1;
}

}  // namespace abacus::bench
