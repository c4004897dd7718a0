// The command line of the worker programs: declares the options of `serve`, `verify`, `check` and `bench` and runs the
// one that was asked for. The only unit of these programs that sees CLI11, which is slow to compile.
//
// Thread rule: one thread, the one that runs the command.
#ifndef ABACUS_WORKER_APP_COMMAND_LINE_H_
#define ABACUS_WORKER_APP_COMMAND_LINE_H_

#include <functional>
#include <string>

#include "worker/app/bench.h"
#include "worker/app/check.h"
#include "worker/app/verify.h"
#include "worker/serve/serve.h"

namespace abacus {

// What a program offers. A command gets its options and returns the exit code.
struct WorkerCommands {
  std::string description;  // of the program
  std::string serve_description;
  std::function<int(const ServeOptions&)> serve;
  // Empty: the program has no such command.
  std::function<int(const VerifyOptions&)> verify;
  std::function<int(const CheckOptions&)> check;
  std::function<int(const BenchOptions&)> bench;
};

// Returns the exit code of the command; that of help, 0, or of a wrong command line where none ran.
int RunCommandLine(int argc, const char* const* argv, const WorkerCommands& commands);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_COMMAND_LINE_H_
