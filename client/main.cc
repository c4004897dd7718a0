// abacus-client: queries, load, models and health of an Abacus server from the command line. The options of all
// subcommands are declared here: CLI11 is slow to compile, so one unit of the program sees it.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "base/duration.h"
#include "client/client.h"
#include "client/commands.h"

namespace abacus {
namespace {

constexpr uint64_t kUs = 1'000, kMs = 1'000'000, kHour = 3'600'000'000'000;

// A duration under two names: with its unit (--qos 50ms), and as a bare number of the unit that the second name says
// (--qos-us 50000). Both set *value, in units of `step_ns`.
struct DurationOption {
  const char* name;
  const char* number_name;
  const char* unit;
  uint64_t low_ns, high_ns, step_ns;
};

constexpr DurationOption kQos = {"--qos", "--qos-us", "us", kUs, kLongestQosUs* kUs, kUs};

CLI::Validator ToSteps(const DurationOption& option, bool may_be_number) {
  return {[option, may_be_number](std::string& text) -> std::string {
            const Result<uint64_t> ns = may_be_number ? ParseDurationOr(text, option.unit) : ParseDuration(text);
            if (!ns) return ns.error().message();
            if (*ns < option.low_ns || *ns > option.high_ns) {
              return text + " is not from " + FormatDuration(option.low_ns) + " to " + FormatDuration(option.high_ns);
            }
            text = std::to_string((*ns + option.step_ns / 2) / option.step_ns);
            return "";
          },
          ""};
}

void AddDuration(CLI::App& app, const DurationOption& option, const std::string& help, uint64_t* value) {
  CLI::Option* with_unit = app.add_option(option.name, *value, help + ", such as 50ms or 2.5s")
                               ->transform(ToSteps(option, false))
                               ->type_name("DURATION");
  app.add_option(option.number_name, *value, "the same as a number of " + std::string(option.unit))
      ->transform(ToSteps(option, true))
      ->type_name("NUMBER")
      ->excludes(with_unit);
}

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
  AddDuration(*command, kQos, "latency target (default: the service's own)", &options->qos_us);
  command->add_option("--repeat", options->repeat, "queries, one after another")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{1}, uint64_t{1'000'000'000}));
  command->callback([options, &common, exit_code] { *exit_code = RunInferCommand(common, *options); });
}

void AddLoadCommand(CLI::App& app, const CommonOptions& common, int* exit_code) {
  auto options = std::make_shared<LoadCommandOptions>();
  CLI::App* command = app.add_subcommand("load", "Send queries at random times, whatever the server does, and report");
  CLI::App* arrivals = command->add_option_group("arrivals", "When to send what");
  arrivals->add_option("--rate", options->load.rate_per_s, "queries per second, all services together")
      ->check(CLI::PositiveNumber);
  arrivals->add_option(
      "--trace", options->trace,
      "CSV file of arrivals, at_s,service[,rows[,sequence]]: instead of --rate, --duration, --service");
  arrivals->require_option(1);
  AddDuration(*command, {"--duration", "--seconds", "s", kMs, 1'000 * kHour, 1}, "how long to send (default: 10s)",
              &options->duration_ns);
  command->add_option("--service", options->services,
                      "NAME[:weight=W][:batch=1,2,4][:seq=8,16]; repeat for a mix; default: all models, all buckets");
  command->add_flag("--payload,!--no-payload", options->load.payload,
                    "send random tensors (default), or synthetic queries without tensors");
  command->add_flag("--lease", options->lease,
                    "payloads lie in memory shared with a server on this machine: queries send none of their bytes");
  AddDuration(*command, kQos, "latency target (default: each service's own)", &options->load.qos_us);
  command->add_option("--seed", options->load.seed, "of arrivals, mix and payloads")->capture_default_str();
  command->add_option("--out", options->out, "also write the report as JSON to this file");
  command->callback([options, command, &common, exit_code] {
    for (const char* drawn : {"--duration", "--seconds", "--service"}) {
      if (!options->trace.empty() && command->count(drawn) > 0) throw CLI::ExcludesError("--trace", drawn);
    }
    options->load.seconds = static_cast<double>(options->duration_ns) / 1e9;
    *exit_code = RunLoadCommand(common, *options);
  });
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
  abacus::AddDuration(app, {"--timeout", "--timeout-s", "s", abacus::kMs, 1'000 * abacus::kHour, 1},
                      "time to connect, and until a query without reply is given up (default: 10s)",
                      &common.timeout_ns);
  app.add_flag("--json", common.json, "print JSON instead of text");
  abacus::AddInferCommand(app, common, &exit_code);
  abacus::AddLoadCommand(app, common, &exit_code);
  abacus::AddModelsCommand(app, common, &exit_code);
  abacus::AddHealthCommand(app, common, &exit_code);
  CLI11_PARSE(app, argc, argv);
  return exit_code;
}
