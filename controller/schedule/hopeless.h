// Whether a query can still make its deadline, and what its client is told when it cannot.
// Thread rule: pure functions.
#ifndef ABACUS_CONTROLLER_SCHEDULE_HOPELESS_H_
#define ABACUS_CONTROLLER_SCHEDULE_HOPELESS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "controller/schedule/query_queue.h"

namespace abacus {

// An answer for the query if it is hopeless at `now_ns`: its deadline has passed, or it would start at `start_ns` at
// the earliest and needs `rest_ns` from then. A probe (probe.h) is when it is due; what is predicted does not count.
std::optional<Status> WhyHopeless(const WaitingQuery& query, uint64_t rest_ns, uint64_t start_ns, uint64_t now_ns);

// A time in milliseconds with two decimals, as messages have it.
std::string MsText(uint64_t ns);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SCHEDULE_HOPELESS_H_
