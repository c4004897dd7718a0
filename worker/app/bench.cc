#include "worker/app/bench.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "models/tensor_layout.h"
#include "shm/gate.h"
#include "shm/layout.h"
#include "worker/app/model_bench.h"
#include "worker/torch/job_rows.h"

namespace abacus {
namespace {

constexpr int kWarmUpTurns = 5;
constexpr uint32_t kSeed = 1;

// A job whose queries lie in the arena, each in a block of its own.
class PlacedJob {
 public:
  // Each query in the block at its number of `offsets`.
  PlacedJob(const ModelSpec& spec, std::byte* arena, const std::vector<Bucket>& queries,
            const std::vector<uint64_t>& offsets) {
    inputs_.reserve(queries.size() * spec.inputs.size());  // so that nothing moves
    outputs_.reserve(queries.size() * spec.outputs.size());
    for (size_t q = 0; q < queries.size(); ++q) {
      const TensorLayout layout = LayoutOf(spec, queries[q]);
      std::byte* const block = arena + offsets[q];
      queries_.push_back({static_cast<uint32_t>(queries[q].batch),
                          static_cast<uint32_t>(queries[q].sequence),
                          {inputs_.data() + inputs_.size(), layout.inputs.size()},
                          {outputs_.data() + outputs_.size(), layout.outputs.size()}});
      const std::vector<at::Tensor> samples = MakeSampleInputs(spec, queries[q], kSeed + q);
      for (size_t i = 0; i < samples.size(); ++i) {
        std::byte* const input = block + layout.inputs[i].offset_bytes;
        std::memcpy(input, samples[i].const_data_ptr(), layout.inputs[i].bytes);
        inputs_.push_back(input);
      }
      for (const TensorExtent& extent : layout.outputs) {
        outputs_.push_back(block + extent.offset_bytes);
        std::memset(outputs_.back(), 0, extent.bytes);  // touched, as a server's arena is
      }
    }
  }
  PlacedJob(const PlacedJob&) = delete;
  PlacedJob& operator=(const PlacedJob&) = delete;

  JobTensors tensors() const { return queries_; }

 private:
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
  std::vector<QueryTensors> queries_;
};

// One kind of job, and how long its passes took.
struct Contender {
  const char* name;
  std::unique_ptr<PlacedJob> job;
  std::vector<uint64_t> pass_ns = {};     // until Poll reports the end, from the gate's opening or else from Start
  std::vector<uint64_t> enqueue_ns = {};  // Start alone
};

double MedianUs(std::vector<uint64_t> times_ns) {
  const auto middle = times_ns.begin() + static_cast<ptrdiff_t>(times_ns.size() / 2);
  std::nth_element(times_ns.begin(), middle, times_ns.end());
  return static_cast<double>(*middle) / kNsPerUs;
}

// The first is the one query that the others are compared with.
std::vector<Contender> MakeContenders(const ModelBench& bench, const Bucket& bucket) {
  const ModelSpec& spec = bench.spec();
  std::byte* const arena = bench.arena().data();
  std::vector<Contender> contenders;
  contenders.push_back(
      {"one_query", std::make_unique<PlacedJob>(spec, arena, std::vector{bucket}, std::vector{uint64_t{0}})});

  uint64_t offset = BlockBytes(spec, bucket.batch, bucket.sequence);
  std::mt19937 random(kSeed);
  const auto add = [&](const char* name, const std::vector<Bucket>& queries) {
    std::vector<uint64_t> offsets;
    for (const Bucket& query : queries) {
      offsets.push_back(offset);
      offset += BlockBytes(spec, query.batch, bucket.sequence);
    }
    std::ranges::shuffle(offsets.begin(), offsets.end() - 1, random);  // the last may be larger
    contenders.push_back({name, std::make_unique<PlacedJob>(spec, arena, queries, offsets)});
  };
  std::vector<Bucket> queries;
  for (const int64_t rows : SmallestQueries(spec, bucket.batch)) queries.push_back({rows, bucket.sequence});
  if (queries.size() == 1) return contenders;
  add("queries", queries);
  if (bucket.sequence > 1 && spec.sequence_padding != SequencePadding::kExact) {
    std::uniform_int_distribution<int64_t> length(bucket.sequence / 2, bucket.sequence);
    for (Bucket& query : queries) query.sequence = length(random);
    add("lengths", queries);
  }
  return contenders;
}

// Holds a job back until it has been started, as a server does that sends it ahead of its round; only where the device
// can wait. So the host's time to start it is no part of the pass.
class Holder {
 public:
  explicit Holder(TorchRuntime* runtime) : gate_(&page_.gate), holds_(runtime->UseGate(&page_.gate).ok()) {}
  uint32_t next() const { return holds_ ? gate_.value() + 1 : 0; }
  bool holds() const { return holds_; }
  void Open() {
    if (holds_) gate_.Open(gate_.value() + 1);
  }

 private:
  LaneBlock page_;  // a device maps the page of its gate
  Gate gate_;
  const bool holds_;
};

Status RunOnce(TorchRuntime& runtime, uint32_t bucket, Holder* holder, Contender* contender) {
  const uint64_t start_ns = MonotonicNs();
  const RangeRequest whole{bucket, 0, runtime.ranges(bucket).operators, contender->job->tensors(), holder->next()};
  ABACUS_RETURN_IF_ERROR(runtime.Start(whole));
  const uint64_t started_ns = MonotonicNs();
  const uint64_t begin_ns = holder->holds() ? started_ns : start_ns;
  holder->Open();
  for (;;) {
    const Result<std::optional<DeviceTimes>> ended = runtime.Poll();
    if (!ended) return ended.error();
    if (*ended) break;
    CpuRelax();
  }
  contender->pass_ns.push_back(MonotonicNs() - begin_ns);
  contender->enqueue_ns.push_back(started_ns - start_ns);
  return Status::Ok();
}

Result<std::vector<Contender>> MeasureBucket(ModelBench& bench, uint32_t bucket, Holder* holder, int repetitions) {
  std::vector<Contender> contenders = MakeContenders(bench, bench.spec().bucket(bucket));
  for (int turn = 0; turn < kWarmUpTurns + repetitions; ++turn) {
    for (Contender& contender : contenders) {
      if (turn == kWarmUpTurns) {
        contender.pass_ns.clear();
        contender.enqueue_ns.clear();
      }
      ABACUS_RETURN_IF_ERROR(RunOnce(bench.runtime(), bucket, holder, &contender));
    }
  }
  return contenders;
}

// How much longer a pass takes than the first contender's, in %.
double SharePercent(const Contender& contender, const Contender& first) {
  return 100 * (MedianUs(contender.pass_ns) / MedianUs(first.pass_ns) - 1);
}

void PrintJson(const ModelBench& bench, const BenchOptions& options, uint32_t bucket,
               const std::vector<Contender>& contenders) {
  const Bucket shape = bench.spec().bucket(bucket);
  nlohmann::ordered_json json;
  json["model"] = bench.spec().name;
  json["device"] = DeviceText(options.runtime);
  json["bucket"] = bucket;
  json["batch"] = shape.batch;
  if (shape.sequence > 0) json["sequence"] = shape.sequence;
  for (const Contender& contender : contenders) {
    nlohmann::ordered_json& entry = json[contender.name];
    entry["queries"] = contender.job->tensors().size();
    entry["pass_us"] = MedianUs(contender.pass_ns);
    entry["enqueue_us"] = MedianUs(contender.enqueue_ns);
    if (&contender != &contenders.front()) entry["share_percent"] = SharePercent(contender, contenders.front());
  }
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

void PrintRow(const std::string& label, const std::vector<Contender>& contenders) {
  const Contender& one = contenders.front();
  std::printf("%-24s %10.1f %8.1f", label.c_str(), MedianUs(one.pass_ns), MedianUs(one.enqueue_ns));
  for (size_t i = 1; i < 3; ++i) {
    if (i < contenders.size()) {
      const Contender& other = contenders[i];
      std::printf("  %3zu %10.1f %8.1f %+6.2f%%", other.job->tensors().size(), MedianUs(other.pass_ns),
                  MedianUs(other.enqueue_ns), SharePercent(other, one));
    } else {
      std::printf("  %3s %10s %8s %7s", "-", "-", "-", "-");
    }
  }
  std::printf("\n");
  std::fflush(stdout);
}

void PrintHead(const ModelSpec& spec, const BenchOptions& options, bool holds) {
  std::printf("%s on %s, times in us (median of %d): a pass, and the host's time to start it, which is %s\n",
              spec.name.c_str(), DeviceText(options.runtime).c_str(), options.repetitions,
              holds ? "no part of it: it is started ahead, as in a server" : "part of it");
  std::printf("%-24s %19s  %31s  %31s\n", "", "one query", "queries of a row each", "of unequal lengths");
  std::printf("%-24s %10s %8s  %3s %10s %8s %7s  %3s %10s %8s %7s\n", "bucket", "pass", "start", "n", "pass", "start",
              "more", "n", "pass", "start", "more");
}

Status Bench(const BenchOptions& options) {
  const Result<ModelSpec> spec = LoadModelSpec(options.model);
  if (!spec) return spec.error();
  ABACUS_RETURN_IF_ERROR(CheckBatches(*spec, options.batches));
  const Result<std::unique_ptr<ModelBench>> loaded = ModelBench::Load(*spec, options.runtime);
  if (!loaded) return loaded.error();
  ModelBench& bench = **loaded;
  const auto holder = std::make_unique<Holder>(&bench.runtime());
  if (!options.json) PrintHead(*spec, options, holder->holds());
  for (uint32_t b = 0; b < spec->bucket_count(); ++b) {
    if (!options.batches.empty() && std::ranges::count(options.batches, spec->bucket(b).batch) == 0) continue;
    const Result<std::vector<Contender>> contenders = MeasureBucket(bench, b, holder.get(), options.repetitions);
    if (!contenders) return contenders.error();
    options.json ? PrintJson(bench, options, b, *contenders)
                 : PrintRow(bench.program().buckets()[b].label, *contenders);
  }
  return Status::Ok();
}

}  // namespace

int RunBench(const BenchOptions& options) {
  BenchOptions whole = options;
  LoadHooks& hooks = whole.runtime.hooks;
  hooks.measure = false;  // passes are run as one range
  if (!hooks.progress) {
    hooks.progress = [](std::string_view stage) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(stage.size()), stage.data());
    };
  }
  const Status status = Bench(whole);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 2;
}

}  // namespace abacus
