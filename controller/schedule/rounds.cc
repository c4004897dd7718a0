#include "controller/schedule/rounds.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr uint64_t kPrepareNs = 50 * kNsPerUs;  // that workers need to have a round ready

static_assert(CorrectedModel::kSizes == std::tuple_size_v<decltype(PredictorStats::factor_ppm)>);

uint32_t Ppm(double share) { return static_cast<uint32_t>(share * 1e6); }

}  // namespace

Rounds::Rounds(LaneId lane, LaneBlock* block, TraceRecorder* trace, const LatencyModel* base, SoloCorrection* solo,
               double start_margin, uint64_t lead_ns, std::function<bool()> settled)
    : lane_(lane),
      stats_(block->predictor),
      trace_(trace),
      lead_ns_(lead_ns),
      settled_(std::move(settled)),
      solo_(solo),
      latency_(base),
      margin_(start_margin),
      gate_(&block->gate) {}

uint64_t Rounds::PlanAtNs() const {
  if (!running() || next_.number != 0) return UINT64_MAX;
  return running_.end_ns() - std::min(running_.end_ns(), lead_ns_);
}

bool Rounds::MayPlan(uint64_t now_ns) const {
  return next_.number == 0 && (!running() || now_ns + lead_ns_ >= running_.end_ns());
}

uint64_t Rounds::StartNs(uint64_t now_ns) const {
  return running() ? EarliestStartNs(now_ns) : now_ns + latency_.start_ns();
}

uint64_t Rounds::EarliestStartNs(uint64_t now_ns) const {
  return running() ? std::max(now_ns, running_.end_ns()) : now_ns;
}

Round Rounds::Plan(std::span<const OperatorRange> group, uint64_t now_ns) {
  Round round;
  round.number = ++count_;
  round.gate = std::max(1u, gate_.value() + 1);  // 0 means no gate
  round.margin = margin_.share();
  round.ahead = running();
  round.planned_ns = now_ns;
  round.start_cost_ns = round.ahead ? 0 : latency_.start_ns();
  round.predicted = latency_.Predict(group);
  for (const OperatorRange& range : group) round.parts.push_back({range, 0, 0});
  return round;
}

void Rounds::Sent(Round round, uint32_t sent, size_t planned, const std::function<uint64_t()>& clock) {
  round.pending = sent;
  round.ranges = sent;
  round.disturbed = sent < planned;
  next_ = round;
  if (!round.ahead) Start(clock());
}

void Rounds::Disturb(uint64_t number) {
  if (number == running_.number) running_.disturbed = true;
  if (number == next_.number) next_.disturbed = true;
}

void Rounds::RangeEnded(uint64_t number, ServiceId service, uint64_t now_ns) {
  if (IsNext(number)) {  // its worker died, or what it continues had failed
    --next_.pending;
    return;
  }
  for (SoloCorrection::Part& part : running_.parts) {
    if (part.range.service == service) part.took_ns = now_ns - running_.started_ns;
  }
  if (--running_.pending > 0) return;
  Round ended = std::exchange(running_, {});
  Start(now_ns);
  Record(&ended, now_ns);
}

void Rounds::FreeRangeEnded(const OperatorRange& range, uint64_t took_ns) {
  const SoloCorrection::Part part = {range, latency_.PredictNs(range), took_ns};
  solo_->Record({&part, 1}, {.quiet = false, .ahead = false});
}

void Rounds::Start(uint64_t now_ns) {
  if (next_.number == 0) return;
  gate_.Open(next_.gate);  // in any case: a worker that is about to end may still hold a range back
  if (next_.pending > 0) {
    running_ = next_;
    running_.started_ns = now_ns;
  }
  next_ = {};
}

void Rounds::Record(Round* ended, uint64_t now_ns) {
  const Round& round = *ended;
  const uint64_t actual_ns = now_ns - round.started_ns;
  trace_->Add({.kind = TraceEvent::kRound,
               .trained = round.predicted.trained,
               .lane = lane_,
               .service = round.reason.service,
               .ranges = round.ranges,
               .worth_per_time = round.reason.worth_per_time,
               .round = round.number,
               .id = round.reason.query,
               .order = round.reason.order,
               .begin_ns = round.started_ns,
               .end_ns = now_ns,
               .predicted_ns = round.end_ns() - round.started_ns,
               .margin_ns = AdaptiveMargin::Of(round.predicted.ns, round.margin)});
  if (round.disturbed || round.predicted.ns == 0) return;
  const uint64_t group_ns = actual_ns - std::min(actual_ns, round.start_cost_ns);
  const bool over = margin_.Record(round.predicted.ns, group_ns, round.margin);
  Learn(ended, actual_ns);
  BumpOwned(stats_.rounds);
  if (over) BumpOwned(stats_.rounds_over);
  if (!round.predicted.trained) BumpOwned(stats_.rounds_untrained);
  if (round.ranges > 1) BumpOwned(stats_.rounds_several);
  Publish();
}

void Rounds::Learn(Round* round, uint64_t actual_ns) {
  const bool quiet = settled_();  // else a worker that loads its model works on the same GPU
  const bool ahead = round->ahead && round->planned_ns + kPrepareNs <= round->started_ns;
  boost::container::static_vector<OperatorRange, kMaxGroup> group;
  for (SoloCorrection::Part& part : round->parts) {
    // Predicted again: rounds that ended after this one was planned may have taught something.
    part.alone_ns = latency_.PredictNs(part.range);
    part.took_ns -= std::min(part.took_ns, round->start_cost_ns);
    group.push_back(part.range);
  }
  const Prediction predicted = latency_.Predict({group.data(), group.size()});
  if (solo_->Record({round->parts.data(), round->parts.size()}, {quiet, ahead}) || !quiet) return;
  if (!round->ahead) {
    latency_.RecordStart(predicted, actual_ns);
  } else if (ahead) {
    latency_.Record(round->ranges, predicted, actual_ns);
  }
}

void Rounds::Publish() {
  stats_.margin_ppm.store(Ppm(margin_.share()), std::memory_order_relaxed);
  stats_.error_ppm.store(Ppm(margin_.error()), std::memory_order_relaxed);
  for (size_t i = 0; i < CorrectedModel::kSizes; ++i) {
    stats_.factor_ppm[i].store(Ppm(latency_.factors()[i]), std::memory_order_relaxed);
  }
  stats_.start_ns.store(latency_.start_ns(), std::memory_order_relaxed);
}

}  // namespace abacus
