// Open-loop load: queries are sent at times fixed before the run (load_plan.h), whatever the server does.
//
// RunLoad sends a plan through one Client and records what became of every query. A query's latency runs from the
// moment it was handed to the client until its reply was seen; how late the sending itself was is recorded apart.
//
// Thread rule: RunLoad sends from the calling thread; records are filled in by that thread and by the client's
// callbacks, and are complete when it returns.
#ifndef ABACUS_CLIENT_LOAD_GENERATOR_H_
#define ABACUS_CLIENT_LOAD_GENERATOR_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "client/client.h"
#include "client/load_plan.h"

namespace abacus {

// What became of one arrival.
struct LoadRecord {
  uint32_t service = 0;
  bool sent = false;      // false: the run was stopped before
  bool answered = false;  // the server replied; else lost, and `status` says how
  StatusCode status = StatusCode::kOk;
  uint64_t lateness_ns = 0;  // of the sending
  uint64_t latency_ns = 0;   // until the reply, or until it was given up
};

struct LoadOutcome {
  std::vector<LoadRecord> records;  // in order of arrival
  double duration_s = 0;            // from the start until the last query was answered or given up
  bool interrupted = false;
  ClientCounters counters;  // of this run
};

struct LoadProgress {
  double elapsed_s = 0;
  uint64_t sent = 0;
  uint64_t done = 0;
  uint64_t ok = 0;
  uint64_t violations = 0;  // OK but late, rejected or lost
};

// Sends the plan until its end, then waits for the replies to what was sent: no longer than the client's
// receive_timeout. `stop` ends the sending and cancels what is in flight. `progress` is called about once a second on a
// thread of its own; it may be empty.
LoadOutcome RunLoad(Client& client, const LoadPlan& plan, const std::atomic<bool>& stop,
                    const std::function<void(const LoadProgress&)>& progress);

}  // namespace abacus

#endif  // ABACUS_CLIENT_LOAD_GENERATOR_H_
