// Runs a short helper command with a time limit.
//
// Thread rule: any thread. Errors: kUnavailable when it cannot be started, kTimeout when it was killed for taking too
// long, kInternal with its output when it exits with another code than 0.
#ifndef ABACUS_CONTROLLER_SUBPROCESS_H_
#define ABACUS_CONTROLLER_SUBPROCESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "shm/status.h"

namespace abacus {

// Returns standard output. `input` goes to standard input; argv[0] is looked up in PATH.
Result<std::string> RunCommand(const std::vector<std::string>& argv, const std::string& input, uint64_t timeout_ns);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_SUBPROCESS_H_
