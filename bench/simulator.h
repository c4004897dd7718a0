// Simulator: the controller's own scheduler and policies on recorded latencies, with a simulated clock.
//
// Everything but the GPU is the real thing: SchedulerLoop with its rounds, gate, margin and abandoning, driven by a
// manual clock, its commands taken from the rings of a real segment. What the GPU would do comes from a predictor file:
// a round takes what the file predicts for its group, times an error drawn from the file's held-out errors. Ranges of a
// round end in proportion to their solo times, the longest with the round. How many queries a job holds does not matter
// to its time: the bucket does, padding included.
//
// Ranges that start while others run (policy "free", or rounds that overlap) share the GPU: until the next one starts
// or ends, each advances through its solo time at the rate 1 / slowdown, where slowdown is predicted for a group in
// which each of them has as much left as the one with the least. This is an approximation: the file knows only groups
// that start together, and nothing of the tails of uncontrolled overlap, so it flatters "free". A worker runs its
// commands in order, one at a time.
//
// Not simulated: the front end, copies to and from the arena beyond what the profile holds, and planning time.
//
// Deterministic: the same options give the same figures on every machine. Thread rule: one thread; one simulation of a
// process at a time.
#ifndef ABACUS_BENCH_SIMULATOR_H_
#define ABACUS_BENCH_SIMULATOR_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "controller/config/config.h"
#include "controller/trace/trace_recorder.h"
#include "models/model_spec.h"
#include "predictor/predictor_file.h"

namespace abacus::bench {

// One query of the load.
struct SimArrival {
  uint64_t at_ns = 0;  // from the start
  uint32_t service = 0;
  uint32_t rows = 1;
  uint32_t sequence = 0;  // 0: the model has none
  friend bool operator==(const SimArrival&, const SimArrival&) = default;
};

struct SimService {
  uint32_t model = 0;  // of the file
  uint64_t qos_ns = 0;
  uint32_t max_batch = 0;  // as in a configuration
  double takes = 1;        // how often as long as the file says it really takes alone
};

struct SimOptions {
  SchedulerConfig scheduler;  // its policy and how it is set; what names files is not used
  std::vector<SimService> services;
  uint64_t seed = 1;      // of the errors of round times
  bool errors = true;     // false: everything takes exactly what is predicted
  uint32_t timeline = 0;  // rounds that SimResult::trace begins with; 0: no trace
  double give_up = 1;     // the run ends once more than this share of all arrivals of a service are violated
};

// Queries of a service, or of all.
struct SimCounts {
  uint64_t sent = 0;
  uint64_t in_time = 0;    // OK within its target
  uint64_t late = 0;       // OK, later
  uint64_t refused = 0;    // any other answer
  uint64_t rows_done = 0;  // of OK replies
  // Of jobs that completed:
  uint64_t jobs = 0;
  uint64_t job_rows = 0;             // without padding
  uint64_t padding_rows = 0;         // up to the batch of the bucket
  std::vector<uint64_t> latency_ns;  // of OK replies, sorted

  uint64_t violated() const { return late + refused; }
  double violation() const { return Share(violated(), sent); }
  double rows_per_job() const { return Share(job_rows, jobs); }
  double padding() const { return Share(padding_rows, job_rows + padding_rows); }
  static double Share(uint64_t part, uint64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
  }
};

struct SimResult {
  std::vector<SimCounts> services;
  SimCounts total;
  bool gave_up = false;  // ended early: the violations are a lower bound, and above SimOptions::give_up
  uint64_t rounds = 0;
  uint64_t rounds_over = 0;  // took longer than predicted plus margin
  uint64_t rounds_several = 0;
  double margin = 0;  // at the end
  double busy = 0;    // share of the time in which something ran
  uint64_t end_ns = 0;
  std::vector<TraceEvent> trace;

  // Of the service that has the highest share of violations.
  double worst_violation() const;
  double goodput_per_s(const SimCounts& counts) const;
};

// The description of a model as far as its profile tells it: its buckets.
ModelSpec SpecOf(const ModelProfile& model);

// Runs the arrivals, which ascend, to their end. Errors: the file does not fit itself, an arrival does not fit its
// model, or no shared memory.
Result<SimResult> Simulate(const PredictorFile& file, const SimOptions& options, std::span<const SimArrival> arrivals);

// Queues that never run dry: every service always has this many queries of one row waiting or running, of the longest
// sequence. Counts are of the time after the warm-up.
struct FullQueues {
  uint32_t queries = 256;
  uint64_t warm_up_ns = 1'000'000'000;
  uint64_t measure_ns = 10'000'000'000;
};
Result<SimResult> SimulateFull(const PredictorFile& file, const SimOptions& options, const FullQueues& queues);

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_SIMULATOR_H_
