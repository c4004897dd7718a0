// Server: one controller, put together. Owns the segment, the threads and the workers for as long as it runs.
//
// Threads: the main thread supervises workers and waits for signals; "front" owns the sockets (FrontEnd), "intake" ones
// copy for it what is large (CopyPool); "leases" gives memory to clients (LeaseSocket); "sched" owns queues, policy and
// rings (SchedulerLoop). SIGTERM or SIGINT drains: new queries get SHUTTING_DOWN, accepted ones are
// answered, for at most drain_timeout_ms; a second signal cuts that short.
#ifndef ABACUS_CONTROLLER_APP_SERVER_H_
#define ABACUS_CONTROLLER_APP_SERVER_H_

#include <cstdint>

#include "base/status.h"
#include "controller/config/config.h"

namespace abacus {

// Runs until a signal ends it. `process_start_ns`: when main began, for the start-up time in the log.
Status RunServer(const Config& config, uint64_t process_start_ns);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_APP_SERVER_H_
