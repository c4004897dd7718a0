// Which profiled buckets stand for the buckets that a worker has now.
//
// A bucket of the same batch and sequence is the profiled one. One that the profile does not have, but for which it has
// smaller and larger ones of both batch and sequence, is predicted between those, its corners: at their times, weighted
// so that a whole pass takes what the worker measured itself. Weights grow with the batch, so what is predicted grows
// with it wherever it does from corner to corner. Outside of what was profiled nothing is known of how a bucket
// overlaps: it has no corners, and the worker's own solo time is all there is.
//
// The worker's solo times lack what a round costs, and may be of another day: they are multiplied by what the profile
// has over the worker's for the buckets that both know (the median).
//
// Thread rule: pure functions. Units: microseconds.
#ifndef ABACUS_PREDICTOR_BUCKET_MATCH_H_
#define ABACUS_PREDICTOR_BUCKET_MATCH_H_

#include <boost/container/static_vector.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "predictor/profile_data.h"

namespace abacus {

// What a worker says about one of its buckets.
struct BucketFacts {
  int64_t batch = 1;
  int64_t sequence = 0;
  uint32_t operators = 0;
  std::vector<uint32_t> cuts;  // from 0 to `operators`, about equally spaced in solo time
  uint64_t solo_ns = 0;        // of a whole pass
};

// Below and above in batch and in sequence.
inline constexpr size_t kMaxCorners = 4;

struct BucketMatch {
  struct Corner {
    uint32_t bucket = 0;  // of the profile
    double weight = 1;
  };
  boost::container::static_vector<Corner, kMaxCorners> corners;  // weights sum to 1; empty: outside of the profile
  std::vector<float> shares;                                     // [operators + 1] of a pass's time, from 0 to 1
  double whole_us = 0;                                           // of a pass, as the profile would say
  std::string note{};                                            // empty when it was profiled; else what it is between
};

// A solo time that is this many times shorter than the profiled one is of another model. A longer one is no such sign:
// the GPU may have been busy.
inline constexpr double kTooFast = 1.5;

// One match for each of `facts`. Errors: a bucket of the same shape with another number of operators, or much too fast.
Result<std::vector<BucketMatch>> MatchBuckets(const ModelProfile& model, std::span<const BucketFacts> facts);

}  // namespace abacus

#endif  // ABACUS_PREDICTOR_BUCKET_MATCH_H_
