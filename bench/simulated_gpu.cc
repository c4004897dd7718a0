#include "bench/simulated_gpu.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "predictor/features.h"
#include "shm/gate.h"

namespace abacus::bench {
namespace {

// Where a GPU is shared: the slowdown of each range stays below that of running one after another by this much, since
// the cost of a round is in every prediction and would count for too much in the last microseconds of a range.
constexpr double kMostSlowdown = kHighestShare;

}  // namespace

void SimulatedGpu::TakeCommands(uint64_t now_ns) {
  for (uint32_t s = 0; s < services_; ++s) {
    Command command;
    while (region_->worker(WorkerId(s)).commands.TryPop(&command)) {
      Range range;
      range.command = command;
      range.rest = {ServiceId(s), command.bucket, command.first, command.last};
      range.solo_ns = static_cast<double>(std::max<uint64_t>(1, truth_.PredictNs(range.rest)));
      held_.push_back(range);
    }
  }
  if (!held_.empty()) Start(now_ns);
}

std::optional<uint64_t> SimulatedGpu::NextEndNs() const {
  std::optional<uint64_t> next;
  for (const Range& range : running_) next = std::min(next.value_or(UINT64_MAX), range.end_ns);
  return next;
}

void SimulatedGpu::Complete(uint64_t now_ns) {
  if (shared_) Advance(now_ns);
  const size_t ended = std::erase_if(running_, [&](const Range& range) {
    if (range.end_ns > now_ns) return false;
    Completion completion;
    completion.job_id = range.command.job_id;
    completion.first = range.command.first;
    completion.last = range.command.last;
    completion.started_ns = range.began_ns;
    completion.ended_ns = now_ns;
    region_->worker(WorkerId(range.rest.service.value())).completions.TryPush(completion);
    return true;
  });
  if (ended == 0) return;
  shared_ &= !running_.empty();
  if (shared_) Share(now_ns);
  if (!held_.empty()) Start(now_ns);  // its worker may have waited for what ended
}

double SimulatedGpu::DrawError() {
  if (errors_.empty()) return 1;
  const double at = UnitOf(random_()) * static_cast<double>(errors_.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, errors_.size() - 1);
  const double share = at - static_cast<double>(low);
  return 1 + errors_[low] * (1 - share) + errors_[high] * share;
}

void SimulatedGpu::Start(uint64_t now_ns) {
  const Gate gate(&region_->lane(LaneId()).gate);
  uint64_t busy = 0;  // services, a bit each
  for (const Range& range : running_) busy |= uint64_t{1} << range.rest.service.value();
  std::vector<Range> group;
  bool free = false;
  std::erase_if(held_, [&](const Range& range) {
    const uint64_t bit = uint64_t{1} << range.rest.service.value();
    const bool first = (busy & bit) == 0;
    busy |= bit;  // what is behind it waits for it in any case
    if (!first || (range.command.gate != 0 && !gate.Reached(range.command.gate))) return false;
    free |= range.command.gate == 0;
    group.push_back(range);
    return true;
  });
  if (group.empty()) return;
  if (running_.empty() && !free) {
    StartRound(group, now_ns);
  } else {
    StartShared(group, now_ns);
  }
}

void SimulatedGpu::StartRound(const std::vector<Range>& group, uint64_t now_ns) {
  std::vector<OperatorRange> ranges;
  double longest_ns = 1;
  for (const Range& range : group) {
    ranges.push_back(range.rest);
    longest_ns = std::max(longest_ns, range.solo_ns);
  }
  const double stretch = DrawError();
  const double round_ns = static_cast<double>(truth_.PredictNs(ranges)) * stretch;
  for (Range range : group) {
    range.stretch = stretch;
    range.began_ns = now_ns;
    range.end_ns = now_ns + std::max<uint64_t>(1, static_cast<uint64_t>(round_ns * range.solo_ns / longest_ns));
    running_.push_back(range);
  }
}

void SimulatedGpu::StartShared(const std::vector<Range>& group, uint64_t now_ns) {
  if (shared_) {
    Advance(now_ns);
  } else {
    for (Range& range : running_) {
      const double left = static_cast<double>(range.end_ns - std::min(range.end_ns, now_ns)) /
                          static_cast<double>(range.end_ns - range.began_ns);
      range.left_ns = range.solo_ns * range.stretch * left;
      SetRest(&range);
    }
    shared_ = true;
  }
  for (Range range : group) {
    range.stretch = DrawError();
    range.left_ns = range.solo_ns * range.stretch;
    range.began_ns = now_ns;
    running_.push_back(range);
  }
  Share(now_ns);
}

void SimulatedGpu::Advance(uint64_t now_ns) {
  for (Range& range : running_) {
    range.left_ns = std::max(0.0, range.left_ns - static_cast<double>(now_ns - shared_ns_) / slowdown_);
    SetRest(&range);
  }
  shared_ns_ = now_ns;
}

void SimulatedGpu::Share(uint64_t now_ns) {
  shared_ns_ = now_ns;
  std::vector<OperatorRange> ranges;
  uint64_t shortest_ns = UINT64_MAX;
  for (const Range& range : running_) {
    ranges.push_back(range.rest);
    shortest_ns = std::min(shortest_ns, std::max<uint64_t>(1, truth_.PredictNs(range.rest)));
  }
  slowdown_ = 1;
  if (ranges.size() > 1) {
    for (OperatorRange& range : ranges) range.last = EndAfter(range, shortest_ns);
    const double slowdown = static_cast<double>(truth_.PredictNs(ranges)) / static_cast<double>(shortest_ns);
    slowdown_ = std::clamp(slowdown, 1.0, kMostSlowdown * static_cast<double>(ranges.size()));
  }
  for (Range& range : running_) {
    range.end_ns = now_ns + std::max<uint64_t>(1, static_cast<uint64_t>(range.left_ns * slowdown_));
  }
}

void SimulatedGpu::SetRest(Range* range) {
  const uint32_t operators = range->command.last - range->command.first;
  const double rest = std::ceil(operators * std::min(1.0, range->left_ns / range->solo_ns));
  range->rest.first = range->command.last - std::clamp(static_cast<uint32_t>(rest), 1u, operators);
}

uint32_t SimulatedGpu::EndAfter(OperatorRange range, uint64_t solo_ns) const {
  uint32_t low = range.first + 1, high = range.last;
  while (low < high) {
    range.last = low + (high - low) / 2;
    truth_.PredictNs(range) < solo_ns ? low = range.last + 1 : high = range.last;
  }
  return low;
}

}  // namespace abacus::bench
