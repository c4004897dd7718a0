// SimulatedGpu: what the workers and the GPU do with the commands of a scheduler, on a simulated clock.
//
// Commands are taken from the rings of a segment and answered there; service number n runs in worker slot number n. How
// long ranges take, as rounds and where they share the GPU, is as bench/simulator.h says. A worker runs its commands in
// order, one at a time, each once its gate is open.
//
// Thread rule: one thread, which also runs the scheduler. Ownership: errors, model and segment are the caller's and
// outlive this. All times are of the simulated clock, which must not go backwards.
#ifndef ABACUS_BENCH_SIMULATED_GPU_H_
#define ABACUS_BENCH_SIMULATED_GPU_H_

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "predictor/latency_model.h"
#include "shm/region.h"

namespace abacus::bench {

class SimulatedGpu {
 public:
  // `errors`: of round times, as PredictorFile::residuals; empty: none. `truth`: what ranges take but for these.
  SimulatedGpu(const std::vector<double>& errors, const LatencyModel& truth, Region* region, size_t services,
               uint64_t seed)
      : errors_(errors), truth_(truth), region_(region), services_(services), random_(seed) {}

  // Takes new commands and starts what may start.
  void TakeCommands(uint64_t now_ns);
  // When the next range ends; nullopt: nothing runs.
  std::optional<uint64_t> NextEndNs() const;
  bool busy() const { return !running_.empty(); }
  // Completes what has ended by now.
  void Complete(uint64_t now_ns);

 private:
  struct Range {
    Command command;
    OperatorRange rest;  // where the GPU is shared: what it still has to do
    double solo_ns = 0;  // of all of it, alone
    double stretch = 1;  // the drawn error
    double left_ns = 0;  // where the GPU is shared: time that it still needs, alone
    uint64_t began_ns = 0;
    uint64_t end_ns = 0;
  };

  double DrawError();
  // Starts the ranges that may: their gate is open, and their worker has nothing before them.
  void Start(uint64_t now_ns);
  // A round: they start together and have the GPU to themselves.
  void StartRound(const std::vector<Range>& group, uint64_t now_ns);
  // Beside what runs. What ran as a round shares the GPU from now on, too.
  void StartShared(const std::vector<Range>& group, uint64_t now_ns);
  // Moves what shares the GPU forward to now ...
  void Advance(uint64_t now_ns);
  // ... and shares it among those that run from now on, until the first of them ends or another starts.
  void Share(uint64_t now_ns);
  static void SetRest(Range* range);
  // The first operator up to which the range takes `solo_ns` alone.
  uint32_t EndAfter(OperatorRange range, uint64_t solo_ns) const;

  const std::vector<double>& errors_;
  const LatencyModel& truth_;
  Region* const region_;
  const size_t services_;
  std::mt19937_64 random_;
  std::vector<Range> running_;
  std::vector<Range> held_;  // in the order of each worker's commands
  bool shared_ = false;      // what runs shares the GPU; else it is one round
  double slowdown_ = 1;      // where it is shared, since shared_ns_
  uint64_t shared_ns_ = 0;
};

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_SIMULATED_GPU_H_
