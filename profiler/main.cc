// abacus-profile: measures solo and group times of a configuration's models. Exit codes: 0 done, 1 could not, 2 wrong
// command line or configuration, 130 interrupted (run the same command again to go on).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/log.h"
#include "profiler/profiler.h"

int main(int argc, char** argv) {
  CLI::App app("Measures how long operator ranges of several models take, alone and together, for abacus-train");
  std::string config_path;
  std::vector<std::string> overrides;
  abacus::ProfileOptions options;
  app.add_option("--config", config_path, "Configuration whose services are profiled")->required();
  app.add_option("--out", options.out, "Profile to write, or to go on with")->required();
  app.add_option("--groups", options.groups, "Groups in all, those of earlier runs included");
  app.add_option("--minutes", options.minutes, "Time for groups in this run; solo times come on top")
      ->check(CLI::PositiveNumber);
  app.add_option("--repetitions", options.repetitions, "Of each measurement, after one that warms up")
      ->check(CLI::Range(1, 100));
  app.add_option("--seed", options.seed, "Of the groups to measure");
  app.add_flag("--fresh", options.fresh, "Start over instead of going on with an existing profile");
  app.add_option("--nvidia-smi-gpu", options.nvidia_smi_gpu,
                 "Whose driver and clocks are noted: index or UUID (default: worker.gpu)");
  app.add_option("--set", overrides, "Override a setting of the configuration: section.key=value (repeatable)");
  CLI11_PARSE(app, argc, argv);
  if (options.groups == 0 && options.minutes == 0) options.minutes = 10;

  auto config = abacus::LoadConfig(config_path, overrides);
  if (!config) {
    fmt::print(stderr, "abacus-profile: {}\n", config.error().message());
    return 2;
  }
  abacus::InitLog("profile", config->server.log_level);
  const abacus::Status status = abacus::RunProfiler(*config, options);
  if (status.ok()) return 0;
  if (status.code() == abacus::StatusCode::kShuttingDown) {
    fmt::print(stderr, "abacus-profile: interrupted; run the same command again to go on\n");
    return 130;
  }
  fmt::print(stderr, "abacus-profile: {}\n", status.message());
  return 1;
}
