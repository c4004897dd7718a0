#include "worker/check.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>

#include "shm/clock.h"
#include "worker/model_loader.h"
#include "worker/torch_tensors.h"

namespace abacus {
namespace {

constexpr uint64_t kInputSeed = 1001;
constexpr uint64_t kOtherInputSeed = 2002;
constexpr uint32_t kRandomChains = 4;
constexpr int kUnwritten = 0xA5;  // output memory before each run

// One job's memory, laid out as in the arena.
class JobMemory {
 public:
  JobMemory(const BlockLayout& layout, std::byte* base, const std::vector<at::Tensor>& inputs) : layout_(layout) {
    for (size_t i = 0; i < layout.inputs.size(); ++i) {
      std::byte* const target = base + layout.inputs[i].offset_bytes;
      std::memcpy(target, inputs[i].const_data_ptr(), layout.inputs[i].bytes);
      inputs_.push_back(target);
    }
    for (const TensorSlot& slot : layout.outputs) outputs_.push_back(base + slot.offset_bytes);
  }

  JobTensors tensors() const { return {inputs_, outputs_}; }
  void ClearOutputs() {
    for (size_t i = 0; i < outputs_.size(); ++i) std::memset(outputs_[i], kUnwritten, layout_.outputs[i].bytes);
  }
  // Copies, as tensors in host memory.
  std::vector<at::Tensor> Outputs(const BucketPlan& plan) const {
    std::vector<at::Tensor> copies;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const at::TensorOptions options(plan.outputs[i].dtype);
      copies.push_back(at::from_blob(outputs_[i], plan.outputs[i].sizes, options).clone());
    }
    return copies;
  }

 private:
  const BlockLayout& layout_;
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
};

// 0 when all bytes agree, else max |a - b| (infinity where that is not a number, or where only the bytes differ).
double MaxDifference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(a[i].const_data_ptr(), b[i].const_data_ptr(), a[i].nbytes()) == 0) continue;
    const double difference = (a[i].to(at::kDouble) - b[i].to(at::kDouble)).abs().max().item<double>();
    largest = std::max(largest, difference > 0 ? difference : std::numeric_limits<double>::infinity());
  }
  return largest;
}

double MedianUs(std::vector<uint64_t> times_ns) {
  const auto middle = times_ns.begin() + static_cast<ptrdiff_t>(times_ns.size() / 2);
  std::nth_element(times_ns.begin(), middle, times_ns.end());
  return static_cast<double>(*middle) / kNsPerUs;
}

// `parts` ranges as equal in number of intervals as `cuts` allows.
std::vector<uint32_t> EvenChain(const std::vector<uint32_t>& cuts, size_t parts) {
  const size_t intervals = cuts.size() - 1;
  std::vector<uint32_t> chain = {0};
  for (size_t i = 1; i <= parts; ++i) {
    const uint32_t cut = cuts[intervals * i / parts];
    if (cut > chain.back()) chain.push_back(cut);
  }
  return chain;
}

struct BucketReport {
  uint32_t bucket = 0;
  uint32_t operators = 0;
  size_t cuts = 0;
  uint64_t solo_ns = 0;
  size_t chains = 0;     // compared with the uncut run
  size_t different = 0;  // of them
  double max_difference = 0;
  double plain_difference = 0;  // relative, uncut run against the plain module
  std::string error;            // the uncut run differs from the plain module
  std::array<double, 6> time_us{};
  bool ok() const { return different == 0 && error.empty(); }
};
// The last two wait after every slice, as serving does; the others wait once, at the end.
constexpr std::array<const char*, 6> kTimeNames = {"whole",       "full_range",        "two_slices",
                                                   "four_slices", "two_slices_waited", "four_slices_waited"};

class Checker {
 public:
  explicit Checker(const CheckOptions& options) : options_(options) {}

  Status Load() {
    Result<ModelSpec> spec = LoadModelSpec(options_.model);
    if (!spec) return spec.error();
    spec_ = std::move(*spec);
    for (int64_t batch : options_.batches) {
      if (!std::ranges::binary_search(spec_.batch_sizes, batch)) {
        return {StatusCode::kInvalidArgument,
                c10::str("--batch ", batch, ": no such batch size in [buckets] of ", spec_.toml_path.string())};
      }
    }
    Result<std::unique_ptr<TorchRuntime>> runtime = LoadTorchRuntime(spec_, options_.runtime);
    if (!runtime) return runtime.error();
    runtime_ = std::move(*runtime);
    Result<torch::jit::Module> plain = LoadPlainModule(spec_, device());
    if (!plain) return plain.error();
    plain_ = std::move(*plain);

    uint64_t block_bytes = 0;
    for (uint32_t b = 0; b < spec_.bucket_count(); ++b) {
      layouts_.push_back(LayoutOf(spec_, b));
      block_bytes = std::max(block_bytes, layouts_.back().total_bytes);
    }
    constexpr uint64_t kPageBytes = 4096;
    block_bytes = (block_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    const uint64_t arena_bytes = 2 * block_bytes;
    arena_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, arena_bytes)));
    if (arena_ == nullptr) return {StatusCode::kUnavailable, "out of memory"};
    block_bytes_ = block_bytes;
    return runtime_->PinArena({arena_.get(), arena_bytes});
  }

  bool Wants(uint32_t bucket) const {
    return options_.batches.empty() ||
           std::ranges::find(options_.batches, spec_.bucket(bucket).batch) != options_.batches.end();
  }

  Result<BucketReport> Check(uint32_t bucket) {
    const BucketPlan plan = PlanBucket(spec_, bucket);
    const std::vector<at::Tensor> inputs = MakeSampleInputs(spec_, bucket, kInputSeed);
    JobMemory job(layouts_[bucket], arena_.get(), inputs);
    JobMemory other(layouts_[bucket], arena_.get() + block_bytes_, MakeSampleInputs(spec_, bucket, kOtherInputSeed));
    const BucketRanges& ranges = runtime_->ranges(bucket);
    BucketReport report;
    report.bucket = bucket;
    report.operators = ranges.operators;
    report.cuts = ranges.cuts.size();
    report.solo_ns = ranges.solo_ns;

    job.ClearOutputs();
    ABACUS_RETURN_IF_ERROR(runtime_->RunUncut(bucket, job.tensors()));
    const std::vector<at::Tensor> reference = job.Outputs(plan);
    const Result<std::vector<at::Tensor>> plain = RunPlain(plain_, device(), inputs);
    if (!plain) return Error(plain.error());
    ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, *plain));
    const Result<double> plain_difference = CompareOutputs(plan, *plain, reference, spec_.tolerance);
    if (plain_difference) {
      report.plain_difference = *plain_difference;
    } else {
      report.error = plain_difference.error().message();
    }

    for (const std::vector<uint32_t>& chain : Chains(ranges.cuts, bucket)) {
      ABACUS_RETURN_IF_ERROR(runtime_->RunUncut(bucket, other.tensors()));
      job.ClearOutputs();
      ABACUS_RETURN_IF_ERROR(RunChain(bucket, chain, job.tensors()));
      const double difference = MaxDifference(reference, job.Outputs(plan));
      ++report.chains;
      report.different += difference > 0 ? 1 : 0;
      report.max_difference = std::max(report.max_difference, difference);
    }
    ABACUS_RETURN_IF_ERROR(Time(bucket, &report));
    return report;
  }

  const ModelSpec& spec() const { return spec_; }

 private:
  at::Device device() const {
    return options_.runtime.device == RuntimeOptions::Device::kCpu
               ? at::Device(at::kCPU)
               : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(options_.runtime.gpu));
  }

  // The ways to cut that are checked: each is the ascending list of its boundaries.
  static std::vector<std::vector<uint32_t>> Chains(const std::vector<uint32_t>& cuts, uint32_t bucket) {
    std::vector<std::vector<uint32_t>> chains = {{0, cuts.back()}, cuts};
    for (size_t i = 1; i + 1 < cuts.size(); ++i) chains.push_back({0, cuts[i], cuts.back()});
    std::mt19937 random(bucket);
    for (uint32_t c = 0; c < kRandomChains; ++c) {
      std::vector<uint32_t> chain(cuts.begin() + 1, cuts.end() - 1);
      std::ranges::shuffle(chain, random);
      chain.resize(std::min<size_t>(chain.size(), 2 + c % 2));
      chain.insert(chain.end(), {0, cuts.back()});
      std::ranges::sort(chain);
      chains.push_back(std::move(chain));
    }
    return chains;
  }

  Status RunChain(uint32_t bucket, const std::vector<uint32_t>& chain, const JobTensors& tensors) {
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      ABACUS_RETURN_IF_ERROR(runtime_->Run(bucket, chain[i], chain[i + 1], tensors));
    }
    return Status::Ok();
  }

  // The ways take turns, so that a drift of the machine's speed meets all alike.
  Status Time(uint32_t bucket, BucketReport* report) {
    const std::vector<uint32_t>& cuts = runtime_->ranges(bucket).cuts;
    const std::array<std::vector<uint32_t>, 6> chains = {std::vector<uint32_t>{}, EvenChain(cuts, 1),
                                                         EvenChain(cuts, 2),      EvenChain(cuts, 4),
                                                         EvenChain(cuts, 2),      EvenChain(cuts, 4)};
    const auto run = [&](size_t way) {
      if (way == 0) return runtime_->RunUncut(bucket, {});
      return way < 4 ? runtime_->RunBackToBack(bucket, chains[way], {}) : RunChain(bucket, chains[way], {});
    };
    std::array<std::vector<uint64_t>, 6> times_ns;
    for (int repetition = -1; repetition < std::max(options_.repetitions, 1); ++repetition) {
      for (size_t way = 0; way < chains.size(); ++way) {
        const uint64_t start_ns = MonotonicNs();
        ABACUS_RETURN_IF_ERROR(run(way));
        if (repetition >= 0) times_ns[way].push_back(MonotonicNs() - start_ns);
      }
    }
    for (size_t way = 0; way < chains.size(); ++way) report->time_us[way] = MedianUs(times_ns[way]);
    return Status::Ok();
  }

  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  const CheckOptions& options_;
  ModelSpec spec_;
  std::unique_ptr<std::byte, Free> arena_;  // two blocks; outlives the runtime, which may have pinned it
  uint64_t block_bytes_ = 0;
  std::unique_ptr<TorchRuntime> runtime_;
  torch::jit::Module plain_;
  std::vector<BlockLayout> layouts_;
};

void PrintTableHead(const ModelSpec& spec, const CheckOptions& options) {
  std::printf("%s on %s, times in us (median of %d), over the uncut run in %%\n", spec.name.c_str(),
              options.runtime.device == RuntimeOptions::Device::kCpu ? "cpu" : "cuda", options.repetitions);
  std::printf("%-24s %9s %5s %11s %9s %10s %18s %18s %18s %18s %18s  %s\n", "bucket", "operators", "cuts", "plain diff",
              "cut diff", "uncut", "full range", "two slices", "four slices", "two, waited", "four, waited", "result");
}

void PrintRow(const ModelSpec& spec, const BucketReport& report) {
  std::printf("%-24s %9u %5zu %11.2e %9.2g %10.1f", PlanBucket(spec, report.bucket).label.c_str(), report.operators,
              report.cuts, report.plain_difference, report.max_difference, report.time_us[0]);
  for (size_t i = 1; i < report.time_us.size(); ++i) {
    std::printf(" %10.1f %+6.2f%%", report.time_us[i], 100 * (report.time_us[i] / report.time_us[0] - 1));
  }
  if (report.ok()) {
    std::printf("  identical (%zu ways)\n", report.chains);
  } else {
    std::printf("  DIFFERENT (%zu of %zu ways) %s\n", report.different, report.chains, report.error.c_str());
  }
  std::fflush(stdout);
}

void PrintJson(const ModelSpec& spec, const CheckOptions& options, const BucketReport& report) {
  nlohmann::ordered_json json;
  json["model"] = spec.name;
  json["device"] = options.runtime.device == RuntimeOptions::Device::kCpu
                       ? std::string("cpu")
                       : "cuda:" + std::to_string(options.runtime.gpu);
  json["bucket"] = report.bucket;
  json["batch"] = spec.bucket(report.bucket).batch;
  json["sequence"] = spec.bucket(report.bucket).sequence;
  json["operators"] = report.operators;
  json["cuts"] = report.cuts;
  json["ways"] = report.chains;
  json["different"] = report.different;
  json["max_difference"] = report.max_difference;  // null stands for infinity
  json["plain_difference"] = report.plain_difference;
  json["solo_us"] = static_cast<double>(report.solo_ns) / kNsPerUs;
  for (size_t i = 0; i < kTimeNames.size(); ++i) json["time_us"][kTimeNames[i]] = report.time_us[i];
  json["ok"] = report.ok();
  if (!report.error.empty()) json["error"] = report.error;
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

CLI::App* AddCheckCommand(CLI::App& app, CheckOptions* options) {
  CLI::App* check = app.add_subcommand("check", "Compare every way to cut a model with the uncut run, and time it");
  check->add_option("--model", options->model, "model description, NAME.toml")->required();
  check
      ->add_option_function<std::string>(
          "--device",
          [options](const std::string& device) {
            options->runtime.device = device == "cuda" ? RuntimeOptions::Device::kCuda : RuntimeOptions::Device::kCpu;
          },
          "cpu or cuda (default: cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  check->add_option("--gpu", options->runtime.gpu, "GPU index, with --device cuda")->capture_default_str();
  check->add_option("--cpu-threads", options->runtime.cpu_threads, "threads of one operator; 0: all cores")
      ->capture_default_str();
  check->add_option("--batch", options->batches, "only buckets of these batch sizes, e.g. 1,4")->delimiter(',');
  check->add_option("--repetitions", options->repetitions, "of each timing; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  check->add_flag("--json", options->json, "one JSON object per bucket and line");
  return check;
}

int RunCheck(const CheckOptions& options) {
  CheckOptions with_progress = options;
  if (!with_progress.runtime.progress) {
    with_progress.runtime.progress = [](std::string_view stage) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(stage.size()), stage.data());
    };
  }
  Checker checker(with_progress);
  if (const Status status = checker.Load(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 2;
  }
  const ModelSpec& spec = checker.spec();
  if (!options.json) PrintTableHead(spec, options);
  bool all_ok = true;
  for (uint32_t b = 0; b < spec.bucket_count(); ++b) {
    if (!checker.Wants(b)) continue;
    const Result<BucketReport> report = checker.Check(b);
    if (!report) {
      std::fprintf(stderr, "%s\n", report.error().ToString().c_str());
      return 2;
    }
    options.json ? PrintJson(spec, options, *report) : PrintRow(spec, *report);
    all_ok = all_ok && report->ok();
  }
  return all_ok ? 0 : 1;
}

}  // namespace abacus
