// Runs a short helper command with a time limit; and what starting any program takes.
//
// Thread rule: any thread. Errors: kUnavailable when it cannot be started, kTimeout when it was killed for taking too
// long, kInternal with its output when it exits with another code than 0.
#ifndef ABACUS_CONTROLLER_WORKERS_SUBPROCESS_H_
#define ABACUS_CONTROLLER_WORKERS_SUBPROCESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace abacus {

// Our environment with these settings ("NAME=VALUE") in place of those of the same name.
std::vector<std::string> EnvironmentWith(const std::vector<std::string>& settings);

// The strings as execve takes them: pointers into `strings`, then null.
std::vector<char*> Pointers(const std::vector<std::string>& strings);

// Returns standard output. `input` goes to standard input; argv[0] is looked up in PATH. `environment`: settings that
// the command has beside ours.
Result<std::string> RunCommand(const std::vector<std::string>& argv, const std::string& input, uint64_t timeout_ns,
                               const std::vector<std::string>& environment = {});

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_SUBPROCESS_H_
