// The subcommands of abacus-client: what each runs with, and its run. main.cc declares their options and says what they
// mean; the default of a field is that of its option. The exit code is 0 for success, 1 for a failure (reported on
// standard error, or as JSON with --json).
#ifndef ABACUS_CLIENT_COMMANDS_H_
#define ABACUS_CLIENT_COMMANDS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/client.h"
#include "client/load_generator.h"
#include "client/tensor.h"

namespace abacus {

struct CommonOptions {
  std::string address = "tcp://127.0.0.1:5570";
  uint64_t timeout_ns = 10'000'000'000;  // to connect, and of every query
  bool json = false;
};

struct InferCommandOptions {
  std::string model;
  std::vector<std::string> inputs;
  std::string synthetic;
  std::string output_dir;
  uint64_t qos_us = 0;  // 0: the service's own
  uint64_t repeat = 1;
};

struct LoadCommandOptions {
  LoadOptions load;
  uint64_t duration_ns = 10'000'000'000;  // becomes load.seconds
  std::vector<std::string> services;
  std::string trace;  // path of an arrival trace, which takes the place of rate, duration and services
  std::string out;
  bool lease = false;  // payloads lie in memory shared with the server
};

// Each returns the exit code.
int RunInferCommand(const CommonOptions& common, const InferCommandOptions& options);
int RunLoadCommand(const CommonOptions& common, const LoadCommandOptions& options);
int RunModelsCommand(const CommonOptions& common);
int RunHealthCommand(const CommonOptions& common);

// From here on the first Ctrl-C or SIGTERM sets the flag that this returns, and the second one kills as usual.
const std::atomic<bool>& StopOnSignal();

Result<std::unique_ptr<Client>> ConnectTo(const CommonOptions& common);
// Prints an error in the chosen form; returns the exit code.
int ReportError(const CommonOptions& common, const Status& status);

// Reads NAME=FILE.npy, or NAME=FILE:DTYPE:D1,D2,... for a file of raw bytes.
Result<Tensor> ReadInput(std::string_view argument);
// Reads B or BxS.
Result<SyntheticShape> ParseSyntheticShape(std::string_view text);

}  // namespace abacus

#endif  // ABACUS_CLIENT_COMMANDS_H_
