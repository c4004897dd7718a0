// ArrivalTrace: when queries arrive, and of which services: a CSV file that drives the simulator and a real server.
//
//   at_s,service[,rows[,sequence]]     first line, exactly: how many columns there are
//   0.00125,resnet50                   seconds from the start, never less than in the line before
//   0.00131,bert,1,64                  rows of the query, and its length; without a column, or with nothing or 0 in it:
//                                      one row, and the longest length that the model takes
//
// Empty lines, and lines that begin with #, are left out. Names of services hold no commas. Errors name file, line and
// column. Thread rule: pure functions and plain values.
#ifndef ABACUS_CLIENT_ARRIVAL_TRACE_H_
#define ABACUS_CLIENT_ARRIVAL_TRACE_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace abacus {

struct TraceArrival {
  uint64_t at_ns = 0;    // from the start
  uint32_t service = 0;  // index into ArrivalTrace::services
  uint32_t rows = 1;
  uint32_t sequence = 0;  // 0: the longest of the model
  friend bool operator==(const TraceArrival&, const TraceArrival&) = default;
};

struct ArrivalTrace {
  std::vector<std::string> services;  // in the order in which the file first names them
  std::vector<TraceArrival> arrivals;

  double seconds() const { return arrivals.empty() ? 0 : static_cast<double>(arrivals.back().at_ns) * 1e-9; }
};

Result<ArrivalTrace> ReadArrivalTrace(const std::filesystem::path& path);
// The same from text; `source` names it in errors.
Result<ArrivalTrace> ParseArrivalTrace(std::string_view text, const std::string& source);
// Text that ParseArrivalTrace reads as the same trace, to the nanosecond.
std::string FormatArrivalTrace(const ArrivalTrace& trace);

}  // namespace abacus

#endif  // ABACUS_CLIENT_ARRIVAL_TRACE_H_
