// abacus-bench: measures the parts of Abacus that are not a model. The options of all benchmarks are declared here:
// CLI11 is slow to compile, so one unit of the program sees it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/duration.h"
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
  headroom->add_option("--decisions", options->decisions, "Measured decisions for each line")
      ->check(CLI::PositiveNumber);
  const auto list = [&](const char* name, std::vector<uint32_t>* values, const char* help, int most) {
    headroom->add_option(name, *values, help)->delimiter(',')->check(CLI::Range(1, most));
  };
  list("--services", &options->services, "Numbers of services", static_cast<int>(kMaxServices));
  list("--queued", &options->queued, "Waiting queries of each service", 1000);
  list("--batch-sizes", &options->batch_sizes, "How many batch sizes each model has: 1, 2, 4, ...", 7);
  list("--cuts", &options->cuts, "Intervals between cuts of a bucket", static_cast<int>(kMaxCuts));
  headroom->add_option("--packings", options->packings, "Ways to fill a round")
      ->delimiter(',')
      ->check(CLI::IsMember({"balanced", "furthest"}));
  headroom->add_option("--json", options->json, "Write the figures to this file");
  headroom->callback([options, exit_code] { *exit_code = RunHeadroom(*options); });
}

// Options with a unit, as numbers: durations in nanoseconds or seconds, shares of 1 from per cent.
CLI::Validator ToNs() {
  return {[](std::string& text) -> std::string {
            const auto ns = ParseDuration(text);
            if (!ns) return ns.error().message();
            if (*ns == 0) return text + " is no time at all";
            text = std::to_string(*ns);
            return "";
          },
          "DURATION"};
}
CLI::Validator ToSeconds() {
  return {[](std::string& text) -> std::string {
            const auto ns = ParseDuration(text);
            if (!ns) return ns.error().message();
            text = fmt::format("{}", static_cast<double>(*ns) * 1e-9);
            return "";
          },
          "DURATION"};
}
CLI::Validator ToShare() {
  return {[](std::string& text) -> std::string {
            double percent = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), percent);
            if (error != std::errc() || std::string_view(end) != "%" || !(percent > 0 && percent < 100)) {
              return text + " is no share of violations such as 1%";
            }
            text = fmt::format("{}", percent / 100);
            return "";
          },
          "PERCENT%"};
}

void AddWorkload(CLI::App* command, WorkloadOptions* workload) {
  command->add_option("--models", workload->models, "Models that share the GPU, e.g. resnet50,bert")
      ->delimiter(',')
      ->required();
  command
      ->add_option("--rows", workload->rows,
                   "Rows of a query: numbers that are equally frequent, or \"mixed\": small ones "
                   "more often, up to the model's largest batch")
      ->capture_default_str();
  command
      ->add_option("--lengths", workload->lengths,
                   "Lengths of sequences: numbers, \"longest\", \"all\" (of the buckets) or \"random\"")
      ->capture_default_str();
  command->add_option("--shares", workload->shares, "Of the queries, by model (default: equal)")->delimiter(',');
  command
      ->add_option("--arrivals", workload->arrivals,
                   "poisson, bursts, diurnal, or a CSV file: at_s,service[,rows[,sequence]]")
      ->capture_default_str();
  ArrivalProcess& process = workload->process;
  command->add_option("--burst-factor", process.burst_factor, "How much more arrives in a burst")
      ->capture_default_str();
  command->add_option("--burst", process.burst_s, "Mean length of a burst (default: 100ms)")->transform(ToSeconds());
  command->add_option("--calm", process.calm_s, "Mean time between bursts (default: 900ms)")->transform(ToSeconds());
  command->add_option("--period", process.period_s, "Of diurnal arrivals (default: the whole run)")
      ->transform(ToSeconds());
  command->add_option("--swing", process.swing, "Of diurnal arrivals, a share of the mean rate")->capture_default_str();
  auto* qos =
      command->add_option("--qos", workload->qos_ns, "Latency target, such as 20ms; of all, or one for each model")
          ->delimiter(',')
          ->transform(ToNs());
  command
      ->add_option("--qos-factor", workload->qos_factor,
                   "Target without --qos, in solo times of the slowest model at its largest bucket")
      ->check(CLI::PositiveNumber)
      ->excludes(qos);
  command->add_option("--max-batch", workload->max_batch,
                      "Rows of a job of several queries (default: the largest bucket)");
}

void AddSimulate(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* simulate = app.add_subcommand("simulate", "Compare policies on recorded latencies, without the device");
  simulate->add_option("--predictor", options->predictor, "Predictor file of the device")->required();
  AddWorkload(simulate, &options->workload);
  simulate->add_option("--policies", options->policies, "NAME[:off][:DELAY], or \"all\"")
      ->delimiter(',')
      ->capture_default_str();
  simulate->add_option("--packing", options->packing, "Of the policy abacus")
      ->check(CLI::IsMember({"balanced", "furthest"}));
  simulate->add_option("--loads", options->loads, "Offered loads; 1 keeps the GPU busy one query at a time")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  simulate->add_option("--seconds", options->seconds, "Of arrivals")->check(CLI::PositiveNumber)->capture_default_str();
  simulate->add_option("--seed", options->seed, "Of arrivals and of round times; the first one")->capture_default_str();
  simulate->add_option("--seeds", options->seeds, "How many: figures are their means")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  simulate
      ->add_option("--find-limit", options->find_limit,
                   "Search the highest load at which no service has more violations, such as 1%")
      ->transform(ToShare());
  simulate->add_flag("--keep-late", options->keep_late, "Run queries that cannot make their target, too");
  simulate->add_option("--timeline", options->timeline, "Print the first N rounds of the last run")
      ->check(CLI::Range(0, 1000));
  simulate->add_option("--csv", options->csv, "Write the figures to this file");
  simulate->add_option("--save-trace", options->save_trace,
                       "Write the arrivals of the first load to this file, as --arrivals and abacus-client read them");
  simulate->callback([options, exit_code] { *exit_code = RunSimulate(*options); });
}

void AddCeiling(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<CeilingOptions>();
  CLI::App* ceiling =
      app.add_subcommand("ceiling", "The policy abacus at full queues over the best fixed choice of batches and cuts");
  ceiling->add_option("--predictor", options->predictor, "Predictor file of the device")->required();
  ceiling->add_option("--groups", options->groups, "e.g. resnet50+bert,vgg16+bert (default: all pairs)")
      ->delimiter(',');
  ceiling->add_option("--batches", options->batches, "Batch sizes that the search may use (default: all)")
      ->delimiter(',');
  ceiling
      ->add_option("--cuts", options->cuts, "Intervals between cuts that the search may use (default: as many as fit)")
      ->check(CLI::Range(1, static_cast<int>(kMaxCuts)));
  ceiling->add_option("--most-rounds", options->most_rounds, "That the search may look at; each takes about 1 us")
      ->capture_default_str();
  ceiling->add_option("--queued", options->queued, "Queries of each service that wait or run, always")
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  ceiling->add_option("--seconds", options->seconds, "Simulated")->check(CLI::PositiveNumber)->capture_default_str();
  ceiling->add_option("--csv", options->csv, "Write the figures to this file");
  ceiling->callback([options, exit_code] { *exit_code = RunCeiling(*options); });
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
  abacus::bench::AddCeiling(app, &exit_code);
  CLI11_PARSE(app, argc, argv);
#ifndef NDEBUG
  fmt::print(stderr, "warning: this is a debug build; its figures mean nothing\n");
#endif
  return exit_code;
}
