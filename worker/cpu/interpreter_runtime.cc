#include "worker/cpu/interpreter_runtime.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "worker/cuts/cut_points.h"
#include "worker/torch/job_rows.h"
#include "worker/torch/known_ranges.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

constexpr int kProfilePasses = 5;
constexpr int kSoloPasses = 7;
// Measuring one bucket ends early after this long, but not before every operator was timed once after warm-up.
constexpr uint64_t kMeasureBudgetNs = 500'000'000;
constexpr uint64_t kOnlyJob = 0;  // the runtime does not know the numbers of its jobs

}  // namespace

Result<std::unique_ptr<TorchRuntime>> InterpreterRuntime::Create(std::unique_ptr<TorchScriptProgram> program,
                                                                 const LoadHooks& hooks) {
  const std::string name = program->name();
  try {
    std::unique_ptr<InterpreterRuntime> runtime(new InterpreterRuntime(std::move(program)));
    if (runtime->partition_.operators() == 0) {
      return Error(StatusCode::kInvalidArgument,
                   c10::str("model \"", name, "\" has no operators: forward() returns its inputs or constants"));
    }
    ABACUS_RETURN_IF_ERROR(runtime->Prepare(hooks));
    return runtime;
  } catch (const std::exception& error) {
    return Error(StatusCode::kInvalidArgument, c10::str("model \"", name, "\": ", ErrorText(error)));
  }
}

InterpreterRuntime::InterpreterRuntime(std::unique_ptr<TorchScriptProgram> program)
    : program_(std::move(program)),
      partition_(program_->graph()),
      ranges_(program_->buckets().size()),
      trees_(program_->buckets().size()) {}

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

Status InterpreterRuntime::Prepare(const LoadHooks& hooks) {
  const uint32_t operators = partition_.operators();
  const auto buckets = static_cast<uint32_t>(ranges_.size());
  std::vector<uint32_t> unknown;
  for (uint32_t b = 0; b < buckets; ++b) {
    const BucketRanges* known = KnownRanges(hooks, b, operators);
    if (known == nullptr && hooks.measure) {
      unknown.push_back(b);
      continue;
    }
    // Once, so that no bucket fails for the first time while queries wait.
    if (const Status ran = RunUncut(b, {}); !ran.ok()) return {StatusCode::kInvalidArgument, ran.message()};
    ranges_[b] = known != nullptr ? *known : UncutRanges(operators);
    CompileSlices(b);
  }
  if (unknown.empty()) return Status::Ok();

  std::vector<RangeCode> single_operators;
  for (uint32_t op = 0; op < operators; ++op) single_operators.push_back(partition_.Compile(op, op + 1));
  if (hooks.await_turn) hooks.await_turn();
  for (const uint32_t b : unknown) {
    if (hooks.progress) hooks.progress(c10::str("measure bucket ", b + 1, " of ", buckets));
    ABACUS_RETURN_IF_ERROR(Measure(b, single_operators));
  }
  return Status::Ok();
}

Status InterpreterRuntime::Measure(uint32_t bucket, const std::vector<RangeCode>& single_operators) {
  const c10::InferenceMode inference;
  const uint32_t operators = partition_.operators();
  BucketRanges& ranges = ranges_[bucket];
  ranges.operators = operators;
  // Warm-up. What fails on its own sample inputs will always fail.
  if (const Status ran = RunUncut(bucket, {}); !ran.ok()) return {StatusCode::kInvalidArgument, ran.message()};

  std::vector<uint64_t> fastest_ns(operators, std::numeric_limits<uint64_t>::max());
  const uint64_t profile_end_ns = MonotonicNs() + kMeasureBudgetNs;
  for (int pass = 0; pass < kProfilePasses && (pass == 0 || MonotonicNs() < profile_end_ns); ++pass) {
    Slots slots = StartSlots(bucket, {});
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
  const auto refuse = [&](StatusCode code, std::string_view why) {
    return Status(code, c10::str(RangeText(range.bucket, range.first, range.last), ": ", why));
  };
  const Bucket& bucket = program_->buckets()[range.bucket].bucket;
  if (const Status status = CheckJob(program_->spec(), bucket, range.tensors); !status.ok()) {
    return refuse(status.code(), status.message());
  }
  if (range.first != 0 && !progress_.Continues(kOnlyJob, range.bucket, range.first)) {
    return refuse(StatusCode::kInternal, "does not continue the job in progress");
  }
  const std::vector<uint32_t> chain = trees_[range.bucket].Chain(range.first, range.last);
  if (chain.empty()) return refuse(StatusCode::kInternal, "does not lie between cut points");
  if (range.first == 0) progress_.Begin(kOnlyJob, range.bucket);
  const Status status = RunSlices(range, chain);
  if (!status.ok() || range.last == partition_.operators()) slots_.clear();
  if (!status.ok()) {
    progress_.End();
    return refuse(status.code(), status.message());
  }
  progress_.Advance(range.last, partition_.operators());
  return status;
}

Status InterpreterRuntime::RunSlices(const RangeRequest& range, const std::vector<uint32_t>& chain) {
  const c10::InferenceMode inference;
  try {
    if (range.first == 0) slots_ = StartSlots(range.bucket, range.tensors);
    for (uint32_t index : chain) {
      const SliceTree::Slice& slice = trees_[range.bucket].slices()[index];
      compiled_.at({slice.first, slice.last}).Run(&slots_);
    }
    if (range.last < partition_.operators()) return Status::Ok();
    const Result<std::vector<at::Tensor>> outputs = FlattenOutputs(partition_.Returned(slots_));
    return outputs ? Finish(range.bucket, *outputs, range.tensors) : outputs.error();
  } catch (const std::exception& error) {
    return {StatusCode::kWorkerFailed, ErrorText(error)};
  }
}

Status InterpreterRuntime::RunUncut(uint32_t bucket, const JobTensors& tensors) {
  const auto run = [&]() -> Status {
    const c10::InferenceMode inference;
    ABACUS_RETURN_IF_ERROR(CheckJob(program_->spec(), program_->buckets()[bucket].bucket, tensors));
    try {
      const Result<std::vector<at::Tensor>> outputs = program_->Forward(bucket, Inputs(bucket, tensors));
      return outputs ? Finish(bucket, *outputs, tensors) : outputs.error();
    } catch (const std::exception& error) {
      return {StatusCode::kWorkerFailed, ErrorText(error)};
    }
  };
  progress_.End();
  slots_.clear();
  const Status status = run();
  return status.ok() ? status : status.WithContext(RangeText(bucket, 0, partition_.operators()) + ", uncut");
}

std::vector<at::Tensor> InterpreterRuntime::Inputs(uint32_t bucket, const JobTensors& tensors) const {
  const BucketPlan& plan = program_->buckets()[bucket];
  std::vector<at::Tensor> inputs = tensors.empty() ? plan.sample : InputTensors(program_->spec(), plan, tensors);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (partition_.WritesInput(i + 1)) inputs[i] = inputs[i].clone();
  }
  return inputs;
}

Slots InterpreterRuntime::StartSlots(uint32_t bucket, const JobTensors& tensors) const {
  std::vector<c10::IValue> inputs = {program_->module()._ivalue()};
  for (at::Tensor& input : Inputs(bucket, tensors)) inputs.emplace_back(std::move(input));
  return partition_.Start(std::move(inputs));
}

Status InterpreterRuntime::Finish(uint32_t bucket, const std::vector<at::Tensor>& outputs,
                                  const JobTensors& tensors) const {
  const BucketPlan& plan = program_->buckets()[bucket];
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, outputs));
  WriteOutputs(program_->spec(), plan, outputs, tensors);
  return Status::Ok();
}

std::string InterpreterRuntime::RangeText(uint32_t bucket, uint32_t first, uint32_t last) const {
  return c10::str("model \"", program_->name(), "\", bucket ", bucket, " (", program_->buckets()[bucket].label,
                  "), operators [", first, ", ", last, ")");
}

}  // namespace abacus
