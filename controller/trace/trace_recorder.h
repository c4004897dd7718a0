// TraceRecorder: the rounds, ranges and queries of the last seconds, kept in a ring of fixed size.
//
// Recording costs one uncontended lock and a copy of an event, 13 ns together on a 2-core virtual machine.
// trace_writer.h turns a copy of the ring into a file. Thread rule: Add from the scheduler's thread; Copy from any.
#ifndef ABACUS_CONTROLLER_TRACE_TRACE_RECORDER_H_
#define ABACUS_CONTROLLER_TRACE_TRACE_RECORDER_H_

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace abacus {

struct TraceEvent {
  enum Kind : uint8_t {
    kRound,  // begin: its gate opened; end: its last range completed
    kRange,  // begin: its round began (or it was sent); end: its completion arrived
    kQuery,  // begin: it arrived; end: it was answered
  };
  Kind kind = kRound;
  StatusCode status = StatusCode::kOk;
  bool trained = false;  // the prediction is a trained predictor's
  LaneId lane{};         // of rounds
  ServiceId service{};   // of ranges and queries; of a round: of its most urgent query
  uint32_t ranges = 0;   // of a round
  uint32_t bucket = 0;   // of a range
  uint32_t first = 0;    // of a range: operators [first, last)
  uint32_t last = 0;
  uint32_t queries = 0;      // of a range: in its job
  uint32_t rows = 0;         // of a range: of these queries
  uint32_t bucket_rows = 0;  // of a range: what is missing to them is padding
  float worth_per_time = 0;  // of a round: what the policy expected of it (Plan); 0: it did not say
  uint64_t round = 0;        // counts from 1 in its lane; 0: outside rounds
  uint64_t id = 0;           // range: job; query: the client's id; round: that of its most urgent query
  uint64_t order = 0;        // of a query: counts arrivals in its lane; of a round: of its most urgent query, 0: none
  uint64_t begin_ns = 0;     // monotonic clock
  uint64_t end_ns = 0;
  uint64_t deadline_ns = 0;     // of a query
  uint64_t predicted_ns = 0;    // duration of a round
  uint64_t margin_ns = 0;       // of a round, on its prediction
  uint64_t gpu_started_ns = 0;  // of a range, on the GPU's clock; 0: not measured
  uint64_t gpu_ended_ns = 0;
};

static_assert(sizeof(TraceEvent) == 128);  // configs/default.toml says so

class TraceRecorder {
 public:
  // Keeps the last `capacity` events; 0 records nothing.
  explicit TraceRecorder(size_t capacity) : capacity_(capacity) { events_.reserve(capacity); }

  void Add(const TraceEvent& event) {
    if (capacity_ == 0) return;
    const std::lock_guard lock(mutex_);
    if (events_.size() < capacity_) {
      events_.push_back(event);
    } else {
      events_[next_ % capacity_] = event;
    }
    ++next_;
  }

  // Oldest first. Copies in pieces, so that the scheduler never waits long.
  std::vector<TraceEvent> Copy() const {
    std::vector<TraceEvent> copy;
    copy.reserve(capacity_);
    uint64_t from = 0, to = 0;
    {
      const std::lock_guard lock(mutex_);
      to = next_;
      from = next_ - events_.size();
    }
    while (from < to) {
      const std::lock_guard lock(mutex_);
      if (next_ - from > capacity_) from = next_ - capacity_;  // overwritten meanwhile
      for (const uint64_t end = std::min(to, from + kPiece); from < end; ++from) {
        copy.push_back(events_[from % capacity_]);
      }
    }
    return copy;
  }

 private:
  static constexpr uint64_t kPiece = 256;
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::vector<TraceEvent> events_;  // protected by mutex_
  uint64_t next_ = 0;               // protected by mutex_; event n lies at n % capacity_
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_TRACE_TRACE_RECORDER_H_
