#include "worker/runtime/fake_runtime.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/digest.h"
#include "models/tensor_layout.h"
#include "shm/doorbell.h"

namespace abacus {
namespace {

// Below this a sleep is less exact than the time asked for.
constexpr uint64_t kSpinBelowNs = 100'000;

void Occupy(uint64_t duration_ns) {
  if (duration_ns == 0) return;
  const uint64_t end_ns = MonotonicNs() + duration_ns;
  if (duration_ns > kSpinBelowNs) std::this_thread::sleep_for(std::chrono::nanoseconds(duration_ns - kSpinBelowNs / 2));
  while (MonotonicNs() < end_ns) CpuRelax();
}

}  // namespace

FakeRuntime::FakeRuntime(const ModelSpec& spec) : spec_(spec) {
  for (size_t b = 0; b < spec.bucket_count(); ++b) {
    BucketRanges ranges;
    ranges.operators = std::max<uint32_t>(1, spec.fake.operators);
    const uint32_t intervals = std::min<uint32_t>(ranges.operators, kMaxCuts);
    for (uint32_t i = 0; i <= intervals; ++i) ranges.cuts.push_back(i * ranges.operators / intervals);
    const double us = spec.fake.base_us + spec.fake.per_row_us * static_cast<double>(spec.bucket(b).batch);
    ranges.solo_ns = static_cast<uint64_t>(us * 1e3);
    ranges_.push_back(std::move(ranges));
  }
}

std::string FakeRuntime::structure() const {
  std::string text = "fake";
  for (const BucketRanges& bucket : ranges_) {
    text += ' ' + std::to_string(bucket.operators) + ':' + std::to_string(bucket.solo_ns);
  }
  return Sha256Hex(text);
}

Status FakeRuntime::ScriptedFault(JobTensors tensors) const {
  if (spec_.inputs.empty() || spec_.inputs[0].dtype != DType::kInt64) return Status::Ok();
  for (const QueryTensors& query : tensors) {
    int64_t value = 0;
    std::memcpy(&value, query.inputs[0], sizeof(value));
    if (value < 0) continue;
    if (value == spec_.fake.die_on_value) _exit(9);
    if (value == spec_.fake.hang_on_value) {
      for (;;) pause();
    }
    if (value == spec_.fake.fail_on_value) {
      return {StatusCode::kWorkerFailed, spec_.name + ": scripted failure for input value " + std::to_string(value)};
    }
  }
  return Status::Ok();
}

void FakeRuntime::Echo(const QueryTensors& query) const {
  const TensorLayout layout = LayoutOf(spec_, query.rows, query.sequence);
  for (size_t i = 0; i < query.outputs.size(); ++i) {
    const uint64_t rows = HasDim(spec_.outputs[i], kBatchDim) ? query.rows : 1;
    const uint64_t out_bytes = layout.outputs[i].bytes / rows;
    uint64_t in_bytes = 0, in_pitch_bytes = 0;
    if (i < query.inputs.size()) {
      const bool by_row = rows > 1 && HasDim(spec_.inputs[i], kBatchDim);
      in_bytes = layout.inputs[i].bytes / (by_row ? rows : 1);
      in_pitch_bytes = by_row ? in_bytes : 0;
    }
    const uint64_t echoed = std::min(in_bytes, out_bytes);
    for (uint64_t row = 0; row < rows; ++row) {
      std::byte* const output = query.outputs[i] + row * out_bytes;
      if (echoed > 0) std::memcpy(output, query.inputs[i] + row * in_pitch_bytes, echoed);
      std::memset(output + echoed, 0, out_bytes - echoed);
    }
  }
}

Status FakeRuntime::Start(const RangeRequest& range) {
  if (range.first == 0) ABACUS_RETURN_IF_ERROR(ScriptedFault(range.tensors));
  const BucketRanges& ranges = ranges_[range.bucket];
  Occupy(ranges.solo_ns * (range.last - range.first) / ranges.operators);
  if (range.last == ranges.operators) {
    for (const QueryTensors& query : range.tensors) Echo(query);
  }
  return Status::Ok();
}

}  // namespace abacus
