// Workload: which models share the simulated GPU, what is asked of them, and what a load of 1 is.
//
// Loads are relative: 1 is the rate at which the GPU, running one query after another, each in the smallest bucket that
// holds it, is always busy. Batches carry several times that.
//
// Thread rule: immutable after MakeWorkload.
#ifndef ABACUS_BENCH_WORKLOAD_H_
#define ABACUS_BENCH_WORKLOAD_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "bench/arrivals.h"
#include "bench/simulator.h"
#include "predictor/predictor_file.h"

namespace abacus::bench {

struct WorkloadOptions {
  std::vector<std::string> models;
  std::string rows = "1";            // numbers, or "mixed": SmallOnesFirst up to the model's largest batch
  std::string lengths = "longest";   // numbers; "longest", "all": those of the buckets; "random": 1 to the longest
  std::vector<double> shares;        // of the queries, by model; empty: equal
  std::string arrivals = "poisson";  // one of kArrivalNames, or the path of a CSV file (client/arrival_trace.h)
  ArrivalProcess process;            // its kind is that of `arrivals`
  std::vector<uint64_t> qos_ns;      // one for all models, or one for each; empty: by factor
  double qos_factor = 2;             // target of all, in solo times of the slowest model at its largest bucket
  uint32_t max_batch = 0;            // of every service; 0: its largest bucket
};

class Workload {
 public:
  const std::vector<SimService>& services() const { return services_; }
  const std::vector<std::string>& models() const { return models_; }
  double mean_solo_s() const { return mean_solo_s_; }
  bool recorded() const { return !recorded_.empty(); }
  // The rate of the file; 0: there is none.
  double recorded_rate_per_s() const { return recorded_per_s_; }

  // Arrivals at this rate. Those of a file are stretched or compressed in time to have it, whatever `seconds` says.
  Result<std::vector<SimArrival>> At(double rate_per_s, double seconds, uint64_t seed) const;

 private:
  friend Result<Workload> MakeWorkload(const PredictorFile& file, const WorkloadOptions& options);

  std::vector<SimService> services_;
  std::vector<std::string> models_;
  std::vector<Demand> demands_;
  ArrivalProcess process_;
  std::vector<SimArrival> recorded_;
  double recorded_per_s_ = 0;
  double mean_solo_s_ = 0;  // of a query
};

// Errors name the model, option or line that does not fit.
Result<Workload> MakeWorkload(const PredictorFile& file, const WorkloadOptions& options);

// The model of that name; the error lists those there are.
Result<uint32_t> FindModel(const PredictorFile& file, const std::string& name);

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_WORKLOAD_H_
