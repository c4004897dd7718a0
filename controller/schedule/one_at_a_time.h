// OneAtATime: one job over all services at a time, whole: the one that ranks first. "sjf" and "edf"; "fcfs" is an
// ArrivalPolicy.
//
//   kShortest    "sjf": the least predicted time of what is left of the job, alone, for each of its queries. A new job
//                begins with the oldest query of a bucket, and takes along what the greedy rule gives in the order of
//                arrival (batching.h). Alone, queries of one bucket take equally long, and the oldest has the most that
//                can go along, so no other one of its bucket is looked at.
//   kMostUrgent  "edf": the job with the earliest deadline. A new one begins with the query of that deadline, and takes
//                along what the greedy rule gives in the order of urgency.
//
// Ties go to the older one. Pure; allocates no more than batching.h does.
#ifndef ABACUS_CONTROLLER_SCHEDULE_ONE_AT_A_TIME_H_
#define ABACUS_CONTROLLER_SCHEDULE_ONE_AT_A_TIME_H_

#include <cstdint>
#include <string_view>

#include "controller/schedule/policy.h"

namespace abacus {

class OneAtATime : public Policy {
 public:
  enum class Rank : uint8_t { kShortest, kMostUrgent };

  // `name`: one of kPolicyNames.
  OneAtATime(std::string_view name, Rank rank) : name_(name), rank_(rank) {}

  std::string_view name() const override { return name_; }
  Plan Next(const Snapshot& snapshot) const override {
    return rank_ == Rank::kShortest ? Shortest(snapshot) : MostUrgent(snapshot);
  }

 private:
  static Plan Shortest(const Snapshot& snapshot);
  static Plan MostUrgent(const Snapshot& snapshot);

  const std::string_view name_;
  const Rank rank_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_ONE_AT_A_TIME_H_
