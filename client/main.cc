// abacus-client: queries, load, models and health of an Abacus server from the command line. The options of all
// subcommands are declared here: CLI11 is slow to compile, so one unit of the program sees it.
#include <CLI/CLI.hpp>
#include <memory>

#include "client/commands.h"

namespace abacus {
namespace {

// Each declares a subcommand; when it was chosen, it runs and sets *exit_code.
void AddInferCommand(CLI::App& app, const CommonOptions& common, int* exit_code) {
  auto options = std::make_shared<InferCommandOptions>();
  CLI::App* command = app.add_subcommand("infer", "Run one query and show its outputs and where its time went");
  command->add_option("--model", options->model, "service to ask")->required();
  auto* input = command->add_option("--input", options->inputs,
                                    "NAME=FILE.npy, or NAME=FILE:DTYPE:D1,D2,... for raw bytes; repeat for each input");
  command->add_option("--synthetic", options->synthetic, "no tensors: run bucket BATCH or BATCHxSEQUENCE")
      ->excludes(input);
  command->add_option("--output-dir", options->output_dir, "write every output to DIR/NAME.npy");
  command->add_option("--qos-us", options->qos_us, "latency target in microseconds; default: the service's own");
  command->add_option("--repeat", options->repeat, "queries, one after another")->capture_default_str();
  command->callback([options, &common, exit_code] { *exit_code = RunInferCommand(common, *options); });
}

void AddLoadCommand(CLI::App& app, const CommonOptions& common, int* exit_code) {
  auto options = std::make_shared<LoadCommandOptions>();
  CLI::App* command = app.add_subcommand("load", "Send queries at random times, whatever the server does, and report");
  command->add_option("--rate", options->load.rate_per_s, "queries per second, all services together")
      ->required()
      ->check(CLI::PositiveNumber);
  command->add_option("--seconds", options->load.seconds, "how long to send")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--service", options->services,
                      "NAME[:weight=W][:batch=1,2,4][:seq=8,16]; repeat for a mix; default: all models, all buckets");
  command->add_flag("--payload,!--no-payload", options->load.payload,
                    "send random tensors (default), or synthetic queries without tensors");
  command->add_option("--qos-us", options->load.qos_us, "latency target in microseconds; default: each service's own");
  command->add_option("--seed", options->load.seed, "of arrivals, mix and payloads")->capture_default_str();
  command->add_option("--out", options->out, "also write the report as JSON to this file");
  command->callback([options, &common, exit_code] { *exit_code = RunLoadCommand(common, *options); });
}

void AddModelsCommand(CLI::App& app, const CommonOptions& common, int* exit_code) {
  app.add_subcommand("models", "Show the server's models, their tensors and buckets")->callback([&common, exit_code] {
    *exit_code = RunModelsCommand(common);
  });
}

void AddHealthCommand(CLI::App& app, const CommonOptions& common, int* exit_code) {
  app.add_subcommand("health", "Show the state of every service; the exit code is 0 only when all are ready")
      ->callback([&common, exit_code] { *exit_code = RunHealthCommand(common); });
}

}  // namespace
}  // namespace abacus

int main(int argc, char** argv) {
  abacus::CommonOptions common;
  int exit_code = 0;
  CLI::App app("Talks to an Abacus server: runs queries, makes load, shows its models and health.");
  app.require_subcommand(1);
  app.fallthrough();  // the common options may follow the subcommand
  app.add_option("--address", common.address, "ZeroMQ endpoint of the server")->capture_default_str();
  app.add_option("--timeout-s", common.timeout_s, "seconds to connect, and until a query without reply is given up")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6));
  app.add_flag("--json", common.json, "print JSON instead of text");
  abacus::AddInferCommand(app, common, &exit_code);
  abacus::AddLoadCommand(app, common, &exit_code);
  abacus::AddModelsCommand(app, common, &exit_code);
  abacus::AddHealthCommand(app, common, &exit_code);
  CLI11_PARSE(app, argc, argv);
  return exit_code;
}
