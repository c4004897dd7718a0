// The subcommands of abacus-client. Each Add... function declares one on `app`; when it is chosen, its callback runs it
// and stores the exit code: 0 for success, 1 for a failure (reported on standard error, or as JSON with --json).
#ifndef ABACUS_CLIENT_COMMANDS_H_
#define ABACUS_CLIENT_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "client/client.h"
#include "client/tensor.h"
#include "shm/status.h"

namespace abacus {

struct CommonOptions {
  std::string address = "tcp://127.0.0.1:5570";
  double timeout_s = 10;  // to connect, and of every query
  bool json = false;
};

void AddInferCommand(CLI::App& app, const CommonOptions& common, int* exit_code);
void AddLoadCommand(CLI::App& app, const CommonOptions& common, int* exit_code);
void AddModelsCommand(CLI::App& app, const CommonOptions& common, int* exit_code);
void AddHealthCommand(CLI::App& app, const CommonOptions& common, int* exit_code);

Result<std::unique_ptr<Client>> ConnectTo(const CommonOptions& common);
// Prints an error in the chosen form; returns the exit code.
int ReportError(const CommonOptions& common, const Status& status);

// Reads NAME=FILE.npy, or NAME=FILE:DTYPE:D1,D2,... for a file of raw bytes.
Result<Tensor> ReadInput(std::string_view argument);
// Reads B or BxS.
Result<SyntheticShape> ParseSyntheticShape(std::string_view text);

}  // namespace abacus

#endif  // ABACUS_CLIENT_COMMANDS_H_
