// QueryQueue: the waiting queries of one service, most urgent first, as one contiguous span for the policies.
//
// Ordered by (due_ns, order), and the parts of one query by their rows. A query waits until a plan takes it into a job;
// until then nothing is fixed but its own shape. Most arrive with the service's own target and go to the end. Whatever
// is put in or taken out moves the shorter side of the queue, once: a job of 64 out of 500 is one pass over the first
// of them.
//
// A query with more rows than the largest bucket is here as several parts, which follow each other.
// Thread rule: the scheduler's thread. Plain values.
#ifndef ABACUS_CONTROLLER_SCHEDULE_QUERY_QUEUE_H_
#define ABACUS_CONTROLLER_SCHEDULE_QUERY_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

namespace abacus {

struct WaitingQuery {
  uint32_t slot = 0;       // of the query table
  uint32_t rows = 0;       // of the batch: [first_row, first_row + rows) of the query's rows
  uint32_t first_row = 0;  // 0, unless it is a later part of a query that was split
  uint32_t sequence = 0;
  uint32_t bucket = 0;  // the smallest that holds it alone
  uint64_t order = 0;   // counts arrivals; decides ties. The same for all parts of a query
  uint64_t arrival_ns = 0;
  uint64_t deadline_ns = 0;
  bool synthetic = false;
  uint64_t late_ns = 0;  // how much later it may be: a probe (probe.h)

  // Of a member of a job: it runs on, and decides nothing any more.
  bool cancelled = false;  // its client cancelled it, or another part of its query failed: its answer is settled
  bool hopeless = false;   // it cannot make its deadline; others of its job can

  bool probe() const { return late_ns > 0; }
  bool counts() const { return !cancelled && !hopeless; }
  uint64_t due_ns() const { return deadline_ns + late_ns; }  // by which policies order
};

class QueryQueue {
 public:
  // To its place: also one that was taken and could not run.
  void Insert(const WaitingQuery& query);
  // Removes the queries at these indices of waiting(), ascending; calls take(query) for each, in their order.
  template <class Take>
  void TakeAll(std::span<const uint32_t> indices, const Take& take) {
    for (const uint32_t index : indices) take(queries_[head_ + index]);
    Remove(indices);
  }
  // Those with this key, which are the parts of one query, as indices of waiting(): [begin, end). None: both are the
  // place where they would be.
  struct Places {
    uint32_t begin = 0;
    uint32_t end = 0;
    bool empty() const { return begin == end; }
  };
  Places Find(uint64_t due_ns, uint64_t order) const;
  // The same, and they leave the queue.
  template <class Take>
  void TakePlaces(Places places, const Take& take) {
    for (uint32_t i = places.begin; i < places.end; ++i) take(queries_[head_ + i]);
    Remove(places);
  }
  // All parts of the query at `index` of waiting() may be this much late, and move to where that puts them.
  void LetBeLate(uint32_t index, uint64_t late_ns);

  std::span<const WaitingQuery> waiting() const { return std::span(queries_).subspan(head_); }
  size_t size() const { return queries_.size() - head_; }

 private:
  using Key = std::tuple<uint64_t, uint64_t, uint32_t>;
  static Key KeyOf(const WaitingQuery& query) { return {query.due_ns(), query.order, query.first_row}; }
  void Remove(std::span<const uint32_t> indices);
  void Remove(Places places);
  // The first `count` are gone.
  void Advance(size_t count);

  std::vector<WaitingQuery> queries_;
  size_t head_ = 0;  // queries_[0, head_) are gone already
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_QUERY_QUEUE_H_
