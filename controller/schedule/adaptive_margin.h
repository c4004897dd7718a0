// AdaptiveMargin: the safety margin on predicted round times, kept where about kTargetOver of the rounds exceed it.
//
// A margin is a share of the predicted time plus kBaseNs: a late completion or wake-up costs some tens of microseconds
// however short the round is, and must not stretch the margin of the long ones. Errors are measured by the same sum.
//
// Each round that takes longer than prediction plus margin raises the share by kStep * (1 - kTargetOver), each other
// one lowers it by kStep * kTargetOver: a stochastic approximation of that quantile of the error (Robbins and Monro,
// 1951), which rises within some rounds and falls slowly: by one hundredth of a per cent a round. Bounded, so that
// neither a run of luck nor a disturbed machine leads it astray.
//
// Thread rule: one thread.
#ifndef ABACUS_CONTROLLER_SCHEDULE_ADAPTIVE_MARGIN_H_
#define ABACUS_CONTROLLER_SCHEDULE_ADAPTIVE_MARGIN_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "controller/config/config.h"

namespace abacus {

class AdaptiveMargin {
 public:
  static constexpr double kTargetOver = 0.005;  // half of what the goal (1 % of the rounds) allows
  static constexpr double kStep = 0.02;
  static constexpr uint64_t kBaseNs = 200'000;

  // The margin on a predicted time, for a share.
  static uint64_t Of(uint64_t predicted_ns, double share) {
    return static_cast<uint64_t>(static_cast<double>(predicted_ns + kBaseNs) * share);
  }

  explicit AdaptiveMargin(double start) : share_(std::clamp(start, kLowestMargin, kHighestMargin)) {}

  double share() const { return share_; }
  // Moving average of |actual / predicted - 1| over about the last kErrorRounds rounds.
  double error() const { return error_; }

  // Returns whether the round took longer than its prediction plus `margin`, the one it was planned with.
  bool Record(uint64_t predicted_ns, uint64_t actual_ns, double margin) {
    const double difference = static_cast<double>(actual_ns) - static_cast<double>(predicted_ns);
    error_ += (std::min(std::abs(difference) / static_cast<double>(predicted_ns), 1.0) - error_) / kErrorRounds;
    const double error = difference / static_cast<double>(predicted_ns + kBaseNs);
    share_ += error > share_ ? kStep * (1 - kTargetOver) : -kStep * kTargetOver;
    share_ = std::clamp(share_, kLowestMargin, kHighestMargin);
    return error > margin;
  }

 private:
  static constexpr double kErrorRounds = 500;
  double share_;
  double error_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_ADAPTIVE_MARGIN_H_
