// Demand: what one service has to do at the moment of a plan, how urgent that is, and in which ways it could do some of
// it in the next round.
//
// A service is as urgent as the earliest deadline among all that waits there. Its ways are the rest of its unfinished
// job, which goes before everything else, or else one new job for each choice of a batch (batching.h), all of which
// begin with its most urgent query.
//
// Too much. All that waits at a service and at those with earlier last deadlines takes, at the most efficient batches,
// a certain share of the time until its own last deadline. Beyond kTooMuch of it (headroom_policy.cc) saving the most
// urgent queries in small batches costs more of those behind them, and the backlog grows until nothing is in time. So
// then jobs begin with the first query that makes its deadline in the most efficient batch, which is also what the
// service's urgency goes by, and deadlines of what stays waiting bound neither batch nor round.
//
// Thread rule: plain values, one plan long. Ownership: borrows the snapshot's views and model. Times: nanoseconds;
// "until" is a moment at which the round must have ended for the service's sake, kNever where nothing can be kept or
// needs to be.
#ifndef ABACUS_CONTROLLER_SCHEDULE_DEMAND_H_
#define ABACUS_CONTROLLER_SCHEDULE_DEMAND_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <optional>
#include <span>

#include "controller/schedule/batching.h"
#include "controller/schedule/policy.h"

namespace abacus {

inline constexpr uint64_t kNever = UINT64_MAX;

// Operators [first, operators) of a job.
struct Way {
  uint32_t bucket = 0;
  uint32_t first = 0;
  uint32_t operators = 0;
  uint64_t solo_ns = 0;                          // alone
  double worth_ns = 0;                           // batching.h
  uint64_t left_until_ns = kNever;               // for the queries that it leaves waiting
  const BatchChoices::Choice* choice = nullptr;  // null: the unfinished job

  double worth_per_time() const { return worth_ns / static_cast<double>(solo_ns); }
};

class Demand {
 public:
  // The view has work.
  Demand(const Snapshot& snapshot, const ServiceView& service);
  // Begins its jobs later, as said above.
  void ShedTheMostUrgent();
  Demand(const Demand&) = delete;
  Demand& operator=(const Demand&) = delete;

  ServiceId service() const { return service_.id; }
  uint64_t due_ns() const { return due_ns_; }
  uint64_t order() const { return order_; }  // of what due_ns() is of, or of its unfinished job; decides ties
  uint64_t last_due_ns() const { return last_due_ns_; }
  // Time that all that waits takes at the most efficient batches.
  double worth_ns() const { return worth_ns_; }
  bool too_much() const { return too_much_; }
  std::span<const Way> ways() const { return {ways_.data(), ways_.size()}; }
  // The one that takes the least time, alone.
  const Way& quickest() const { return *quickest_; }
  // Those that take at most `limit_ns` alone, with the margin, most worth per time first; the quickest if none does.
  using Ways = boost::container::static_vector<const Way*, kMaxBuckets>;
  Ways BestWithin(uint64_t limit_ns) const;

  // If it does not join; if it joins with a way up to its end; or up to a cut after which `rest_ns` are left.
  uint64_t UntilIfWaiting() const { return UntilFor(due_ns_, quickest_->solo_ns); }
  uint64_t UntilIfDone(const Way& way) const;
  uint64_t UntilIfCut(uint64_t rest_ns) const { return UntilFor(due_ns_, rest_ns); }

  // Cut points after the beginning of a way, the end of the model included.
  std::span<const uint32_t> EndsOf(const Way& way) const;
  Assignment UpTo(const Way& way, uint32_t last) const;

 private:
  // The latest moment from which `needs_ns`, with the margin, are enough; kNever: they are not even now.
  uint64_t UntilFor(uint64_t due_ns, uint64_t needs_ns) const;
  uint64_t UntilFor(const WaitingQuery* left) const;
  void AddRest(const Job& job);
  void AddJobs(uint32_t lead);

  const Snapshot& snapshot_;
  const ServiceView& service_;
  std::optional<BatchChoices> choices_;
  boost::container::static_vector<Way, kMaxBuckets> ways_;
  const Way* quickest_ = nullptr;
  uint64_t due_ns_ = 0;
  uint64_t last_due_ns_ = 0;
  uint64_t order_ = 0;
  double worth_ns_ = 0;
  bool too_much_ = false;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_DEMAND_H_
