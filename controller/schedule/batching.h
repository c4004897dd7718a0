// Batching: the jobs that a service could start with the queries that wait, and what they are worth.
//
// A job begins with one query, its lead, and takes along those that follow it in the order of urgency (or arrival),
// none left out in between but such as cannot share its bucket: of another length where padding changes answers, longer
// than the bucket, synthetic among real ones. Rows of a job: at most ServiceView::max_batch, at most the bucket's. A
// lead with more rows than max_batch runs alone.
//
// Worth. A query is worth what its rows would cost at its service's most efficient batch, in the smallest bucket of
// sequence that holds it: rows * min over batch sizes of (solo time of the bucket / rows of a full job there). A job is
// full with the bucket's rows or max_batch, whichever is less; with the query's own where it has more than max_batch.
// Batches count up to those that take half of the service's target, which is what it can have while others run, too.
// Where jobs hold one query it is worth what it costs. A job is worth the sum of its queries. So worth per time is at
// most 1 for such a job alone, less where its batch is small or padded, and above 1 only where ranges overlap. A range
// of a job is worth its share of the job's solo time.
//
// Greedy rule: of all batch and sequence buckets the one in which the job has the most worth per solo time. With rows
// of one length this is the rule of least cost per row, padding counted: a larger bucket is padded only where that is
// cheaper per row than leaving rows for the next job.
//
// Thread rule: pure functions and plain values. Allocates only where queries are taken in order of arrival and that is
// not the order of urgency.
#ifndef ABACUS_CONTROLLER_SCHEDULE_BATCHING_H_
#define ABACUS_CONTROLLER_SCHEDULE_BATCHING_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <span>

#include "controller/schedule/policy.h"

namespace abacus {

enum class BatchOrder : uint8_t { kUrgency, kArrival };

// Of one service at one moment. Borrows the view and the model.
class BatchChoices {
 public:
  struct Choice {
    uint32_t bucket = 0;
    uint32_t rows = 0;
    uint16_t count = 0;  // of its queries
    uint16_t list = 0;   // which of the lists of members they begin
    uint64_t solo_ns = 0;
    double worth_ns = 0;

    double worth_per_time() const { return worth_ns / static_cast<double>(solo_ns > 0 ? solo_ns : 1); }
  };

  // `lead`: index of ServiceView::waiting.
  BatchChoices(const ServiceView& service, const LatencyModel& latency, uint32_t lead = 0,
               BatchOrder by = BatchOrder::kUrgency);

  // Never empty: the first has the bucket that holds the lead alone. No two have the same bucket.
  std::span<const Choice> all() const { return {choices_.data(), choices_.size()}; }
  Batch Of(const Choice& choice) const;
  // The greedy rule.
  const Choice& Best() const;
  // Of choices in order of urgency: the most urgent query that is left waiting beside this one; null: none is.
  const WaitingQuery* LeftBeside(const Choice& choice) const;

 private:
  static constexpr size_t kMaxLists = 8;  // sequence buckets that are looked at, from the lead's own on
  using Members = boost::container::static_vector<uint32_t, kMaxJobQueries>;

  // `order`: indices of ServiceView::waiting; empty: as they stand.
  void AddList(std::span<const uint32_t> order, uint32_t sequence_index);
  // Jobs of the first members of the newest list, one for each batch size.
  void AddChoices(uint32_t sequence_index);

  const ServiceView& service_;
  const LatencyModel& latency_;
  const uint32_t lead_;
  boost::container::static_vector<double, kMaxBuckets> row_ns_;  // worth of a row, by sequence bucket
  boost::container::static_vector<Members, kMaxLists> lists_;
  boost::container::static_vector<Choice, kMaxBuckets> choices_;
};

double WorthOf(const ServiceView& service, const LatencyModel& latency, const WaitingQuery& query);
// Of a whole job.
double WorthOf(const ServiceView& service, const LatencyModel& latency, const Job& job);
// Of several queries, those that count.
double WorthOf(const ServiceView& service, const LatencyModel& latency, std::span<const WaitingQuery> queries);

// The job that the greedy rule forms around the query `lead`.
Batch GreedyBatch(const ServiceView& service, const LatencyModel& latency, uint32_t lead,
                  BatchOrder by = BatchOrder::kUrgency);
// The job around `lead` with the most rows whose predicted time alone, with margin, is at most `limit_ns`; if there is
// none, the one in the bucket that holds the lead alone.
Batch LargestWithin(const ServiceView& service, const Snapshot& snapshot, uint32_t lead, uint64_t limit_ns);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_BATCHING_H_
