#include "worker/interpreter_runtime.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "shm/clock.h"
#include "worker/cut_points.h"

namespace abacus {
namespace {

constexpr int kProfilePasses = 5;
constexpr int kSoloPasses = 7;
// Measuring one bucket ends early after this long, but not before every operator was timed once after warm-up.
constexpr uint64_t kMeasureBudgetNs = 500'000'000;

}  // namespace

Result<std::unique_ptr<TorchRuntime>> InterpreterRuntime::Create(LoadedModel model, const ProgressFn& progress) {
  const std::string name = model.name;
  try {
    std::unique_ptr<InterpreterRuntime> runtime(new InterpreterRuntime(std::move(model)));
    if (runtime->partition_.operators() == 0) {
      return Error(StatusCode::kInvalidArgument, c10::str("model \"", name, "\" has no operators"));
    }
    std::vector<RangeCode> single_operators;
    for (uint32_t op = 0; op < runtime->partition_.operators(); ++op) {
      single_operators.push_back(runtime->partition_.Compile(op, op + 1));
    }
    const auto buckets = static_cast<uint32_t>(runtime->model_.buckets.size());
    for (uint32_t b = 0; b < buckets; ++b) {
      if (progress) progress(c10::str("measure bucket ", b + 1, " of ", buckets));
      ABACUS_RETURN_IF_ERROR(runtime->Measure(b, single_operators));
    }
    return runtime;
  } catch (const std::exception& error) {
    return Error(StatusCode::kInvalidArgument, c10::str("model \"", name, "\": ", ErrorText(error)));
  }
}

InterpreterRuntime::InterpreterRuntime(LoadedModel model)
    : model_(std::move(model)),
      partition_(model_.graph),
      uncut_(model_.graph, "forward"),
      ranges_(model_.buckets.size()),
      trees_(model_.buckets.size()) {}

std::string InterpreterRuntime::device_name() const {
  std::string name = "CPU";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    name = line.substr(std::min(line.size(), line.find(':') + 2));
    break;
  }
  const int threads = at::get_num_threads();
  return c10::str(name, ", ", threads, threads == 1 ? " thread" : " threads");
}

std::string InterpreterRuntime::libraries() const { return c10::str("LibTorch ", TORCH_VERSION); }

Status InterpreterRuntime::Measure(uint32_t bucket, const std::vector<RangeCode>& single_operators) {
  const c10::InferenceMode inference;
  const uint32_t operators = partition_.operators();
  BucketRanges& ranges = ranges_[bucket];
  ranges.operators = operators;
  ABACUS_RETURN_IF_ERROR(RunUncut(bucket, {}));  // warm-up

  std::vector<uint64_t> fastest_ns(operators, std::numeric_limits<uint64_t>::max());
  const uint64_t profile_end_ns = MonotonicNs() + kMeasureBudgetNs;
  for (int pass = 0; pass < kProfilePasses && (pass == 0 || MonotonicNs() < profile_end_ns); ++pass) {
    Slots slots = partition_.Start(GraphInputs(bucket, {}));
    for (uint32_t op = 0; op < operators; ++op) {
      const uint64_t start_ns = MonotonicNs();
      single_operators[op].Run(&slots);
      fastest_ns[op] = std::min(fastest_ns[op], MonotonicNs() - start_ns);
    }
  }
  std::vector<double> cumulative(operators + 1, 0);
  for (uint32_t op = 0; op < operators; ++op) {
    cumulative[op + 1] = cumulative[op] + static_cast<double>(fastest_ns[op]);
  }
  ranges.cuts = ChooseCuts(cumulative, kMaxCuts);
  CompileSlices(bucket);

  std::vector<uint64_t> passes_ns;
  const uint64_t solo_end_ns = MonotonicNs() + kMeasureBudgetNs;
  for (int pass = 0; pass < kSoloPasses && (pass == 0 || MonotonicNs() < solo_end_ns); ++pass) {
    const uint64_t start_ns = MonotonicNs();
    ABACUS_RETURN_IF_ERROR(Run(bucket, 0, operators, {}));
    passes_ns.push_back(MonotonicNs() - start_ns);
  }
  const auto middle = passes_ns.begin() + static_cast<ptrdiff_t>(passes_ns.size() / 2);
  std::nth_element(passes_ns.begin(), middle, passes_ns.end());
  ranges.solo_ns = *middle;
  return Status::Ok();
}

void InterpreterRuntime::CompileSlices(uint32_t bucket) {
  trees_[bucket] = SliceTree(ranges_[bucket].cuts);
  for (const SliceTree::Slice& slice : trees_[bucket].slices()) {
    const auto [entry, added] = compiled_.try_emplace({slice.first, slice.last});
    if (added) entry->second = partition_.Compile(slice.first, slice.last);
  }
}

Status InterpreterRuntime::Start(const RangeRequest& range) {
  const uint32_t bucket = range.bucket;
  const uint32_t first = range.first;
  const uint32_t last = range.last;
  const JobTensors& tensors = range.tensors;
  const c10::InferenceMode inference;
  const BucketPlan& plan = model_.buckets[bucket];
  if (Status status = CheckTensorCount(plan, tensors.inputs.size(), tensors.outputs.size()); !status.ok()) {
    return status.WithContext(RangeText(bucket, first, last));
  }
  if (first != 0 && (first != next_ || bucket != job_bucket_)) {
    return {StatusCode::kInternal, RangeText(bucket, first, last) + ": does not continue the job in progress"};
  }
  const SliceTree& tree = trees_[bucket];
  const std::vector<uint32_t> chain = tree.Chain(first, last);
  if (chain.empty())
    return {StatusCode::kInternal, RangeText(bucket, first, last) + ": does not lie between cut points"};
  next_ = 0;
  try {
    if (first == 0) slots_ = partition_.Start(GraphInputs(bucket, tensors));
    for (uint32_t index : chain) {
      const SliceTree::Slice& slice = tree.slices()[index];
      compiled_.at({slice.first, slice.last}).Run(&slots_);
    }
    if (last == partition_.operators()) {
      const c10::IValue returned = partition_.Returned(slots_);
      slots_.clear();
      const Status status = Finish(bucket, returned, tensors);
      return status.ok() ? status : status.WithContext(RangeText(bucket, first, last));
    }
  } catch (const std::exception& error) {
    slots_.clear();
    return {StatusCode::kWorkerFailed, RangeText(bucket, first, last) + ": " + ErrorText(error)};
  }
  job_bucket_ = bucket;
  next_ = last;
  return Status::Ok();
}

Status InterpreterRuntime::RunUncut(uint32_t bucket, const JobTensors& tensors) {
  const c10::InferenceMode inference;
  next_ = 0;
  slots_.clear();
  try {
    torch::jit::Stack stack = GraphInputs(bucket, tensors);
    torch::jit::InterpreterState(uncut_).run(stack);
    return Finish(bucket, stack.at(0), tensors);
  } catch (const std::exception& error) {
    return {StatusCode::kWorkerFailed, RangeText(bucket, 0, partition_.operators()) + ", uncut: " + ErrorText(error)};
  }
}

std::vector<c10::IValue> InterpreterRuntime::GraphInputs(uint32_t bucket, const JobTensors& tensors) const {
  const BucketPlan& plan = model_.buckets[bucket];
  std::vector<c10::IValue> inputs = {model_.module._ivalue()};
  std::vector<at::Tensor> views = tensors.inputs.empty() ? plan.sample : InputViews(plan, tensors.inputs);
  for (size_t i = 0; i < views.size(); ++i) {
    inputs.emplace_back(partition_.WritesInput(i + 1) ? views[i].clone() : std::move(views[i]));
  }
  return inputs;
}

Status InterpreterRuntime::Finish(uint32_t bucket, const c10::IValue& returned, const JobTensors& tensors) const {
  const BucketPlan& plan = model_.buckets[bucket];
  const Result<std::vector<at::Tensor>> outputs = FlattenOutputs(returned);
  if (!outputs) return outputs.error();
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, *outputs));
  WriteOutputs(plan, *outputs, tensors.outputs);
  return Status::Ok();
}

std::string InterpreterRuntime::RangeText(uint32_t bucket, uint32_t first, uint32_t last) const {
  return c10::str("model \"", model_.name, "\", bucket ", bucket, " (", model_.buckets[bucket].label, "), operators [",
                  first, ", ", last, ")");
}

}  // namespace abacus
