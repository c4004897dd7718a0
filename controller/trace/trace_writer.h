// Writes a copy of the trace recorder's ring as Chrome trace events (JSON), which https://ui.perfetto.dev opens.
//
// One process, the controller. Its tracks, from top to bottom: for each lane predicted rounds and rounds, then one per
// service with its ranges; queries are asynchronous events, grouped by service. A predicted round begins with its round
// and lasts as long as was predicted; where that reaches into the next round, the next prediction goes to a second
// track. Slices of one track never overlap: a viewer would nest them. A round names the query whose headroom it was
// chosen for, a range the queries and rows of its job.
//
// Times are microseconds since the earliest event. The file appears under its name when it is complete.
// Thread rule: any thread. Errors name the file.
#ifndef ABACUS_CONTROLLER_TRACE_TRACE_WRITER_H_
#define ABACUS_CONTROLLER_TRACE_TRACE_WRITER_H_

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "controller/trace/trace_recorder.h"

namespace abacus {

// What the events belong to.
struct TraceSubject {
  std::string controller;
  std::vector<std::string> services;  // names by ServiceId
  std::vector<std::string> lanes;     // their GPUs, by LaneId
  uint64_t capacity = 0;              // of the recorder; the first line of the file says it
};

Status WriteTrace(std::span<const TraceEvent> events, const TraceSubject& subject, const std::filesystem::path& path);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_TRACE_TRACE_WRITER_H_
