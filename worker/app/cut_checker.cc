#include "worker/app/cut_checker.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <utility>

#include "base/clock.h"
#include "models/tensor_layout.h"
#include "worker/torch/model_program.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

constexpr uint64_t kInputSeed = 1001;
constexpr uint64_t kOtherInputSeed = 2002;
constexpr uint32_t kRandomChains = 4;
constexpr int kUnwritten = 0xA5;  // output memory before each run

// The memory of a job of one query that fills its bucket, laid out as in the arena.
class JobMemory {
 public:
  JobMemory(const ModelSpec& spec, const BucketPlan& plan, std::byte* base, const std::vector<at::Tensor>& inputs)
      : layout_(LayoutOf(spec, plan.bucket)) {
    for (size_t i = 0; i < layout_.inputs.size(); ++i) {
      std::byte* const target = base + layout_.inputs[i].offset_bytes;
      std::memcpy(target, inputs[i].const_data_ptr(), layout_.inputs[i].bytes);
      inputs_.push_back(target);
    }
    for (const TensorExtent& extent : layout_.outputs) outputs_.push_back(base + extent.offset_bytes);
    query_ = {static_cast<uint32_t>(plan.bucket.batch), static_cast<uint32_t>(plan.bucket.sequence), inputs_, outputs_};
  }
  JobMemory(const JobMemory&) = delete;
  JobMemory& operator=(const JobMemory&) = delete;

  JobTensors tensors() const { return {&query_, 1}; }
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
  const TensorLayout layout_;
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
  QueryTensors query_;
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

// The ways to cut that are checked: each is the ascending list of its boundaries.
std::vector<std::vector<uint32_t>> Chains(const std::vector<uint32_t>& cuts, uint32_t bucket) {
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

}  // namespace

Status CutChecker::Load() {
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

  uint64_t block_bytes = 0;
  for (uint32_t b = 0; b < spec_.bucket_count(); ++b) {
    block_bytes = std::max(block_bytes, LayoutOf(spec_, spec_.bucket(b)).total_bytes);
  }
  block_bytes_ = (block_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uint64_t arena_bytes = 2 * block_bytes_;
  arena_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, arena_bytes)));
  if (arena_ == nullptr) return {StatusCode::kUnavailable, "out of memory"};
  return runtime_->PinArena({arena_.get(), arena_bytes});
}

bool CutChecker::Wants(uint32_t bucket) const {
  return options_.batches.empty() ||
         std::ranges::find(options_.batches, spec_.bucket(bucket).batch) != options_.batches.end();
}

Result<BucketReport> CutChecker::Check(uint32_t bucket) {
  ModelProgram& program = runtime_->program();
  const BucketPlan& plan = program.buckets()[bucket];
  const std::vector<at::Tensor> inputs = MakeSampleInputs(spec_, bucket, kInputSeed);
  JobMemory job(spec_, plan, arena_.get(), inputs);
  const JobMemory other(spec_, plan, arena_.get() + block_bytes_, MakeSampleInputs(spec_, bucket, kOtherInputSeed));
  const BucketRanges& ranges = runtime_->ranges(bucket);
  BucketReport report;
  report.bucket = bucket;
  report.label = plan.label;
  report.operators = ranges.operators;
  report.cuts = ranges.cuts.size();
  report.solo_ns = ranges.solo_ns;

  job.ClearOutputs();
  ABACUS_RETURN_IF_ERROR(runtime_->RunUncut(bucket, job.tensors()));
  const std::vector<at::Tensor> reference = job.Outputs(plan);
  const Result<std::vector<at::Tensor>> plain = program.Reference(bucket, inputs);
  if (!plain) return Error(plain.error());
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, *plain));
  const Result<double> plain_difference = CompareOutputs(plan, *plain, reference, program.tolerance());
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
  ABACUS_RETURN_IF_ERROR(Time(&report));
  return report;
}

Status CutChecker::RunChain(uint32_t bucket, const std::vector<uint32_t>& chain, const JobTensors& tensors) {
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    ABACUS_RETURN_IF_ERROR(runtime_->Run(bucket, chain[i], chain[i + 1], tensors));
  }
  return Status::Ok();
}

// The ways take turns, so that a drift of the machine's speed meets all alike.
Status CutChecker::Time(BucketReport* report) {
  const uint32_t bucket = report->bucket;
  const std::vector<uint32_t>& cuts = runtime_->ranges(bucket).cuts;
  const std::array<std::vector<uint32_t>, 6> chains = {std::vector<uint32_t>{}, EvenChain(cuts, 1), EvenChain(cuts, 2),
                                                       EvenChain(cuts, 4),      EvenChain(cuts, 2), EvenChain(cuts, 4)};
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

}  // namespace abacus
