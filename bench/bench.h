// The subcommands of abacus-bench. Each prints a table for people and, with --json FILE, the same figures for scripts.
#ifndef ABACUS_BENCH_BENCH_H_
#define ABACUS_BENCH_BENCH_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/ceiling.h"
#include "bench/workload.h"
#include "shm/layout.h"

namespace abacus::bench {

// The default of each field is that of its option; main.cc says what the options mean. Every Run function returns
// the exit code of the program.
struct RingOptions {
  uint64_t round_trips = 1'000'000;
  std::vector<int> cpus;
  std::string json;
};
int RunRing(const RingOptions& options);

struct FrontendOptions {
  double seconds = 2.0;
  int rounds = 5;
  int clients = 4;
  int services = 4;
  int window = 0;  // outstanding queries per client; 0: 64 without payload, 8 with
  std::string policy = "free";
  bool payload = false;
  std::string json;
};
int RunFrontend(const FrontendOptions& options);

struct LifecycleOptions {
  int repetitions = 20;
  std::string json;
};
int RunLifecycle(const LifecycleOptions& options);

struct HeadroomOptions {
  uint64_t decisions = 200'000;
  std::vector<uint32_t> services = {2, 4, 8, 16};
  std::vector<uint32_t> queued = {4, 64};      // waiting queries of each service
  std::vector<uint32_t> batch_sizes = {1, 6};  // how many each model has: 1, 2, 4, ...
  std::vector<uint32_t> cuts = {kMaxCuts};     // intervals of a bucket
  std::vector<std::string> packings = {"balanced", "furthest"};
  std::string json;
};
int RunHeadroom(const HeadroomOptions& options);

struct SimulateOptions {
  std::string predictor;
  WorkloadOptions workload;
  std::vector<std::string> policies = {"all"};
  std::string packing = "balanced";
  std::vector<double> loads;  // empty: the file's own, or a list from half to eight
  double seconds = 20;
  uint64_t seed = 1;
  uint64_t seeds = 1;
  double find_limit = 0;  // share of violations; 0: runs the loads
  bool keep_late = false;
  uint32_t timeline = 0;
  std::string csv;
  std::string save_trace;
};
int RunSimulate(const SimulateOptions& options);

struct CeilingOptions {
  std::string predictor;
  std::vector<std::string> groups;  // "resnet50+bert"; empty: all pairs
  std::vector<int64_t> batches;     // empty: all
  uint32_t cuts = 0;                // intervals of a bucket; 0: as many as the bound on rounds allows
  uint64_t most_rounds = kMostCeilingRounds;
  uint32_t queued = 256;
  double seconds = 10;
  std::string csv;
};
int RunCeiling(const CeilingOptions& options);

// Folder of the running program, where the other programs are too.
std::filesystem::path BinDir();

// Writes what --json asks for, if it does; false, and says why, when the file cannot be written.
bool WriteJson(const std::string& path, const nlohmann::json& figures);

// Value at quantile q (0..1) of sorted samples.
inline uint64_t Quantile(const std::vector<uint64_t>& sorted, double q) {
  if (sorted.empty()) return 0;
  const auto index = static_cast<size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)));
  return sorted[std::min(index, sorted.size() - 1)];
}

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_BENCH_H_
