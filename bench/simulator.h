// Simulator: the controller's own scheduler and policies on recorded latencies, with a simulated clock.
//
// Everything but the GPU is the real thing: SchedulerLoop with its rounds, gate, margin and abandoning, driven by a
// manual clock, its commands taken from the rings of a real segment. What the GPU would do comes from a predictor file:
// a round takes what the file predicts for its group, times an error drawn from the file's held-out errors. Ranges of a
// round end in proportion to their solo times, the longest with the round.
//
// Without rounds (policy "free") ranges start at any time. Those that run share the GPU: until the next one starts or
// ends, each advances through its solo time at the rate 1 / slowdown, where slowdown is predicted for a group in which
// each of them has as much left as the one with the least. This is an approximation: the file knows only groups that
// start together, and nothing of the tails of uncontrolled overlap, so it flatters "free".
//
// Not simulated: the front end, copies to and from the arena beyond what the profile holds, and planning time.
//
// Deterministic: the same options give the same figures on every machine. Thread rule: one thread.
#ifndef ABACUS_BENCH_SIMULATOR_H_
#define ABACUS_BENCH_SIMULATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "controller/config/config.h"
#include "controller/trace/trace_recorder.h"
#include "predictor/predictor_file.h"

namespace abacus::bench {

// One query of the load.
struct SimArrival {
  uint64_t at_ns = 0;
  uint32_t service = 0;
  uint32_t bucket = 0;
};

struct SimOptions {
  std::string policy = "abacus";
  Packing packing = Packing::kBalanced;
  bool abandon = true;
  std::vector<uint32_t> models;  // of the file: services 0, 1, ...
  std::vector<uint64_t> qos_ns;  // by service
  std::vector<double> takes;     // by service: how often as long as the file says it really takes alone; empty: 1
  uint64_t seed = 1;             // of the errors of round times
  uint32_t timeline = 0;         // rounds that SimResult::trace begins with; 0: no trace
};

struct SimResult {
  uint64_t sent = 0;
  uint64_t in_time = 0;  // OK within its target
  uint64_t late = 0;     // OK, later
  uint64_t refused = 0;  // any other answer
  uint64_t rounds = 0;
  uint64_t rounds_over = 0;  // took longer than predicted plus margin
  uint64_t rounds_several = 0;
  double margin = 0;  // at the end
  double busy = 0;    // share of the time in which something ran
  uint64_t end_ns = 0;
  std::vector<uint64_t> latency_ns;  // of OK replies, sorted
  std::vector<TraceEvent> trace;

  double violation() const { return sent == 0 ? 0 : 1 - static_cast<double>(in_time) / static_cast<double>(sent); }
};

// Runs the arrivals to their end. Errors: the file does not fit itself, or no shared memory.
Result<SimResult> Simulate(const PredictorFile& file, const SimOptions& options,
                           const std::vector<SimArrival>& arrivals);

// Poisson arrivals over services and their buckets, uniformly. `buckets[s]`: the buckets that service s is asked for.
std::vector<SimArrival> PoissonArrivals(double rate_per_s, double seconds,
                                        const std::vector<std::vector<uint32_t>>& buckets, uint64_t seed);

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_SIMULATOR_H_
