// abacus-bench: measures the parts of Abacus that are not a model. The options of all benchmarks are declared here:
// CLI11 is slow to compile, so one unit of the program sees it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "bench/bench.h"
#include "shm/layout.h"

namespace abacus::bench {
namespace {

// Each declares its subcommand; when it was chosen, it runs and sets *exit_code.
void AddRing(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<RingOptions>();
  CLI::App* ring = app.add_subcommand("ring", "Round trip of a command between two pinned processes");
  ring->add_option("--round-trips", options->round_trips, "Measured round trips");
  ring->add_option("--cpus", options->cpus, "The two CPUs to pin to, e.g. 2,4")->delimiter(',')->expected(2);
  ring->add_option("--json", options->json, "Write the figures to this file");
  ring->callback([options, exit_code] { *exit_code = RunRing(*options); });
}

void AddFrontend(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<FrontendOptions>();
  CLI::App* frontend = app.add_subcommand("frontend", "Queries per second against a bare ZeroMQ echo");
  frontend->add_option("--seconds", options->seconds, "Measured time of each run");
  frontend->add_option("--rounds", options->rounds, "Alternating runs of both; the medians count");
  frontend->add_option("--clients", options->clients, "Client threads, each with its own connection");
  frontend->add_option("--services", options->services, "Fake services");
  frontend->add_option("--window", options->window, "Outstanding queries per client; 0 chooses");
  frontend->add_option("--policy", options->policy, "Scheduling policy");
  frontend->add_flag("--payload", options->payload, "Send 602,112 bytes with every query and get them back");
  frontend->add_option("--json", options->json, "Write the figures to this file");
  frontend->callback([options, exit_code] { *exit_code = RunFrontend(*options); });
}

void AddLifecycle(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<LifecycleOptions>();
  CLI::App* lifecycle = app.add_subcommand("lifecycle", "Start-up of the controller; death and repair of a worker");
  lifecycle->add_option("--repetitions", options->repetitions, "Of each measurement");
  lifecycle->add_option("--json", options->json, "Write the figures to this file");
  lifecycle->callback([options, exit_code] { *exit_code = RunLifecycle(*options); });
}

void AddHeadroom(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<HeadroomOptions>();
  CLI::App* headroom = app.add_subcommand("headroom", "Time of one decision of the policy abacus");
  headroom->add_option("--decisions", options->decisions, "Measured decisions for each line");
  headroom->add_option("--queued", options->queued, "Waiting queries of each service")->check(CLI::Range(1, 1000));
  headroom->add_option("--services", options->services, "Numbers of services")
      ->delimiter(',')
      ->check(CLI::Range(1, static_cast<int>(kMaxServices)));
  headroom->add_option("--json", options->json, "Write the figures to this file");
  headroom->callback([options, exit_code] { *exit_code = RunHeadroom(*options); });
}

void AddSimulate(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* simulate = app.add_subcommand("simulate", "Compare policies on recorded latencies, without the device");
  simulate->add_option("--predictor", options->predictor, "Predictor file of the device")->required();
  simulate->add_option("--models", options->models, "Models that share the GPU, e.g. resnet50,bert")
      ->delimiter(',')
      ->required();
  simulate->add_option("--batches", options->batches, "Batch sizes that are asked for (default: all)")->delimiter(',');
  simulate->add_option("--policies", options->policies, "Policies to compare")->delimiter(',');
  simulate->add_option("--packing", options->packing, "Of the policy abacus")
      ->check(CLI::IsMember({"balanced", "furthest"}));
  simulate->add_option("--loads", options->loads, "Offered loads; 1 keeps the GPU busy one query at a time")
      ->delimiter(',');
  simulate->add_option("--seconds", options->seconds, "Of arrivals");
  simulate->add_option("--qos-factor", options->qos_factor, "Target, in solo times of the slowest model and bucket");
  simulate->add_option("--seed", options->seed, "Of arrivals and of round times");
  simulate->add_flag("--keep-late", options->keep_late, "Run queries that cannot make their target, too");
  simulate->add_option("--timeline", options->timeline, "Print the first N rounds of the last run")
      ->check(CLI::Range(0, 1000));
  simulate->add_option("--csv", options->csv, "Write the figures to this file");
  simulate->callback([options, exit_code] { *exit_code = RunSimulate(*options); });
}

}  // namespace

std::filesystem::path BinDir() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

bool WriteJson(const std::string& path, const nlohmann::json& figures) {
  if (path.empty()) return true;
  const Status status = WriteWholeFile(path, figures.dump(2) + "\n");
  if (!status.ok()) fmt::print(stderr, "abacus-bench: {}\n", status.message());
  return status.ok();
}

}  // namespace abacus::bench

int main(int argc, char** argv) {
  CLI::App app("Abacus benchmarks");
  app.require_subcommand(1);
  int exit_code = 0;
  abacus::bench::AddRing(app, &exit_code);
  abacus::bench::AddFrontend(app, &exit_code);
  abacus::bench::AddLifecycle(app, &exit_code);
  abacus::bench::AddHeadroom(app, &exit_code);
  abacus::bench::AddSimulate(app, &exit_code);
  CLI11_PARSE(app, argc, argv);
#ifndef NDEBUG
  fmt::print(stderr, "warning: this is a debug build; its figures mean nothing\n");
#endif
  return exit_code;
}
