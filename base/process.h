// Identity of processes: a pid alone may be recycled, a pid with its start time is not.
//
// Thread rule: free functions. Errors: a process that is gone gives nullopt.
#ifndef ABACUS_BASE_PROCESS_H_
#define ABACUS_BASE_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace abacus {

// Start time in clock ticks since boot (field 22 of /proc/PID/stat); nullopt when there is no such process or it is a
// zombie, which holds no resources any more.
std::optional<uint64_t> ProcessStartTicks(pid_t pid);

// A file descriptor that becomes readable when the process has exited, or -1. The caller closes it.
int OpenPidFd(pid_t pid);

}  // namespace abacus

#endif  // ABACUS_BASE_PROCESS_H_
