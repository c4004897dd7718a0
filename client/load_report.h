// LoadReport: the figures of one load run, as numbers, JSON and a table.
//
// Terms: a query is OK when the server answered OK; late when it was OK after its latency target; rejected when the
// server answered with an error; lost when it has no answer. One that was cancelled, since the run was interrupted, is
// none of these. Goodput counts OK queries that were not late, throughput all OK queries, both per second of the run's
// duration. Latencies are those of OK queries.
//
// Thread rule: pure functions and plain values. Units: `_us` microseconds.
#ifndef ABACUS_CLIENT_LOAD_REPORT_H_
#define ABACUS_CLIENT_LOAD_REPORT_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/load_generator.h"

namespace abacus {

struct Percentiles {
  double p50_us = 0;
  double p90_us = 0;
  double p99_us = 0;
  double p999_us = 0;
  double max_us = 0;
};

// The smallest value that at least the share `q` of `ascending` does not exceed (nearest rank); 0 for no values.
uint64_t PercentileOf(std::span<const uint64_t> ascending, double q);
Percentiles PercentilesOf(std::vector<uint64_t> values_ns);

struct LoadFigures {
  std::string name;     // of the service, or "total"
  uint64_t qos_us = 0;  // target; 0: none, or several
  uint64_t sent = 0;
  std::array<uint64_t, kStatusCodeNames.size()> replies{};  // of the server, by status
  std::array<uint64_t, kStatusCodeNames.size()> lost_by{};  // queries without answer, by the client's error
  uint64_t lost = 0;
  uint64_t late = 0;
  uint64_t rejected = 0;
  double goodput_per_s = 0;
  double throughput_per_s = 0;
  Percentiles latency;
};

struct LoadReport {
  LoadOptions options;
  uint64_t planned = 0;
  double duration_s = 0;
  bool interrupted = false;
  ClientCounters counters;
  Percentiles lateness;  // of the sending
  LoadFigures total;
  std::vector<LoadFigures> services;
};

LoadReport MakeReport(const LoadPlan& plan, const LoadOutcome& outcome);
std::string ToJson(const LoadReport& report);
std::string ToTable(const LoadReport& report);

}  // namespace abacus

#endif  // ABACUS_CLIENT_LOAD_REPORT_H_
