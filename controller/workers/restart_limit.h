// RestartLimit: when a worker that ended may be started again: at once, but not more than so many times in any minute.
// Thread rule: plain value.
#ifndef ABACUS_CONTROLLER_WORKERS_RESTART_LIMIT_H_
#define ABACUS_CONTROLLER_WORKERS_RESTART_LIMIT_H_

#include <cstddef>
#include <cstdint>
#include <deque>

#include "base/clock.h"

namespace abacus {

class RestartLimit {
 public:
  static constexpr uint64_t kWindowNs = 60 * kNsPerSecond;

  // Counts a restart and returns when it may be: `now_ns`, or once fewer than `most` (at least 1) of those counted lie
  // within the last minute.
  uint64_t Next(uint64_t now_ns, uint32_t most) {
    while (!restarts_ns_.empty() && restarts_ns_.front() + kWindowNs < now_ns) restarts_ns_.pop_front();
    const uint64_t at_ns = restarts_ns_.size() < most ? now_ns : restarts_ns_[restarts_ns_.size() - most] + kWindowNs;
    restarts_ns_.push_back(at_ns);
    return at_ns;
  }
  // Restarts within the last minute before the last call, the one that it counted included.
  size_t recent() const { return restarts_ns_.size(); }

 private:
  std::deque<uint64_t> restarts_ns_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_RESTART_LIMIT_H_
