#include "worker/fake_runtime.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "shm/clock.h"
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
    layouts_.push_back(LayoutOf(spec, b));
  }
}

Status FakeRuntime::ScriptedFault(const JobTensors& tensors) const {
  if (tensors.inputs.empty() || spec_.inputs[0].dtype != DType::kInt64) return Status::Ok();
  int64_t value = 0;
  std::memcpy(&value, tensors.inputs[0], sizeof(value));
  if (value < 0) return Status::Ok();
  if (value == spec_.fake.die_on_value) _exit(9);
  if (value == spec_.fake.hang_on_value) {
    for (;;) pause();
  }
  if (value == spec_.fake.fail_on_value) {
    return {StatusCode::kWorkerFailed, spec_.name + ": scripted failure for input value " + std::to_string(value)};
  }
  return Status::Ok();
}

Status FakeRuntime::Start(const RangeRequest& range) {
  const JobTensors& tensors = range.tensors;
  if (range.first == 0) ABACUS_RETURN_IF_ERROR(ScriptedFault(tensors));
  const BucketRanges& ranges = ranges_[range.bucket];
  const BlockLayout& layout = layouts_[range.bucket];
  Occupy(ranges.solo_ns * (range.last - range.first) / ranges.operators);
  if (range.last == ranges.operators) {
    for (size_t i = 0; i < tensors.outputs.size(); ++i) {
      const uint64_t out_bytes = layout.outputs[i].bytes;
      const uint64_t in_bytes = i < tensors.inputs.size() ? layout.inputs[i].bytes : 0;
      const uint64_t echoed = std::min(in_bytes, out_bytes);
      if (echoed > 0) std::memcpy(tensors.outputs[i], tensors.inputs[i], echoed);
      std::memset(tensors.outputs[i] + echoed, 0, out_bytes - echoed);
    }
  }
  return Status::Ok();
}

}  // namespace abacus
