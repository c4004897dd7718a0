// QueryQueue: the waiting queries of one service, in arrival order, as one contiguous span for the policies.
//
// A query waits until a plan takes it into a job; until then nothing is fixed but its own shape. Taking the oldest is
// O(1) amortised; taking one from the middle moves those behind it (a few hundred at most, bounded by queue_limit).
// Thread rule: the scheduler's thread. Plain values.
#ifndef ABACUS_CONTROLLER_SCHEDULE_QUERY_QUEUE_H_
#define ABACUS_CONTROLLER_SCHEDULE_QUERY_QUEUE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace abacus {

struct WaitingQuery {
  uint32_t slot = 0;  // of the query table
  uint32_t rows = 0;  // of the batch
  uint32_t sequence = 0;
  uint32_t bucket = 0;  // the smallest that holds it alone
  uint64_t order = 0;   // counts arrivals; decides ties
  uint64_t arrival_ns = 0;
  uint64_t deadline_ns = 0;
  bool synthetic = false;
  uint64_t late_ns = 0;  // how much later it may be: a probe (probe.h)

  bool probe() const { return late_ns > 0; }
  uint64_t due_ns() const { return deadline_ns + late_ns; }  // by which policies order
};

class QueryQueue {
 public:
  void PushBack(const WaitingQuery& query) { queries_.push_back(query); }
  // Back to its place: it was taken and could not run.
  void PutBack(const WaitingQuery& query) {
    const auto first = queries_.begin() + static_cast<std::ptrdiff_t>(head_);
    const auto older = [&](const WaitingQuery& other) { return other.order < query.order; };
    queries_.insert(std::partition_point(first, queries_.end(), older), query);
  }
  // The query at `index` of waiting() may be this much late.
  void LetBeLate(size_t index, uint64_t late_ns) { queries_[head_ + index].late_ns = late_ns; }
  // Removes and returns the query at `index` of waiting().
  WaitingQuery Take(size_t index) {
    const auto it = queries_.begin() + static_cast<std::ptrdiff_t>(head_ + index);
    const WaitingQuery query = *it;
    if (index > 0) {
      queries_.erase(it);
    } else if (++head_; head_ >= kCompactAt && head_ * 2 >= queries_.size()) {
      queries_.erase(queries_.begin(), queries_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
    return query;
  }
  std::span<const WaitingQuery> waiting() const { return std::span(queries_).subspan(head_); }
  size_t size() const { return queries_.size() - head_; }

 private:
  static constexpr size_t kCompactAt = 64;
  std::vector<WaitingQuery> queries_;
  size_t head_ = 0;  // queries_[0, head_) are gone already
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_QUERY_QUEUE_H_
