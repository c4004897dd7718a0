// The overlap ceiling: the most worth per time that any fixed choice of batches and cuts reaches with full queues.
//
// Given are services with endless queries of one row and no deadlines. A service runs jobs one after another; each is a
// batch of one of its shapes (bucket, all of its rows full) and runs from cut to cut. In a round any of the services,
// at least one, each run one range: from where its job stands, or the beginning of a job of any shape, up to any later
// cut of that job. The round takes what the latency model predicts for its group, and the next one follows at once: no
// margin, no errors, no cost of planning. A row is worth what it costs at the service's most efficient batch, as in
// controller/schedule/batching.h, so a service that runs alone reaches 1 at the best, and more than 1 is what overlap
// brings.
//
// The state of the game is where each service's job stands: nowhere, or (shape, cut). There are finitely many, so what
// any schedule reaches in the long run a cyclic one reaches, too: the ceiling is the largest ratio of worth to time
// over all cycles of the graph of states and rounds, however long. Howard's algorithm finds it and proves it: in the
// end there are potentials with which no round of the graph does better.
//
// Bound: it is one over schedules of the given shapes and cuts. A policy that cuts finer may exceed it by what the
// finer cuts bring. No service is owed anything: the best cycle may serve one service more than another, or not at all.
//
// Cost: rounds of the graph = product over the services of S, where S of a service with B shapes of K intervals each is
// 1 + B K + B K (K - 1) / 2 + B (K - 1): each takes one prediction (about 1 us) and 8 bytes. `most_rounds` bounds it.
//
// Thread rule: pure functions. Units: nanoseconds; worth is in nanoseconds, too.
#ifndef ABACUS_BENCH_CEILING_H_
#define ABACUS_BENCH_CEILING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "predictor/latency_model.h"

namespace abacus::bench {

// A batch that a service may run.
struct CeilingShape {
  uint32_t bucket = 0;
  uint32_t rows = 0;
  std::vector<uint32_t> cuts;  // ascending from 0 to the bucket's number of operators
};

struct CeilingService {
  ServiceId id;
  std::vector<CeilingShape> shapes;
};

struct CeilingRound {
  std::vector<OperatorRange> ranges;
  uint64_t predicted_ns = 0;
};

struct Ceiling {
  double worth_per_time = 0;
  std::vector<CeilingRound> cycle;      // rounds that reach it, again and again
  std::vector<double> rows_per_s;       // of each service, in the cycle
  uint64_t states = 0, rounds = 0;      // of the graph
  std::vector<double> worth_of_row_ns;  // of each service
};

inline constexpr uint64_t kMostCeilingRounds = 8'000'000;

// How many rounds the graph has.
uint64_t CeilingRounds(std::span<const CeilingService> services);
// kInvalidArgument: a service has no shapes, a shape no cuts, a group has no prediction, or there are more than
// `most_rounds` rounds.
Result<Ceiling> FindCeiling(const LatencyModel& latency, std::span<const CeilingService> services,
                            uint64_t most_rounds = kMostCeilingRounds);

// At most `intervals` intervals between cuts of a bucket, as even in solo time as its `cuts` allow.
std::vector<uint32_t> EvenCuts(const LatencyModel& latency, ServiceId service, uint32_t bucket,
                               std::span<const uint32_t> cuts, uint32_t intervals);

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_CEILING_H_
