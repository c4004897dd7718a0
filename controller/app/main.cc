// abacus-controller: reads the configuration and runs the server. Exit codes: 0 stopped by a signal, or what was asked
// for was printed; 1 could not run; 2 wrong command line or configuration; 3 --check found services that would be down.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "controller/app/run_directory.h"
#include "controller/app/server.h"
#include "controller/config/config.h"
#include "controller/config/config_json.h"
#include "controller/config/service_set.h"
#include "controller/workers/worker_supervisor.h"

namespace {

int Fail(int exit_code, const std::string& message) {
  fmt::print(stderr, "abacus-controller: {}\n", message);
  return exit_code;
}

int PrintRunDirectory() {
  const auto directory = abacus::RunDirectory();
  if (!directory) return Fail(1, directory.error().message());
  fmt::print("{}\n", directory->string());
  return 0;
}

int PrintJson(const abacus::Config& config) {
  const auto directory = abacus::RunDirectory();
  if (!directory) return Fail(1, directory.error().message());
  fmt::print("{}\n", abacus::ToJsonText(config, *directory));
  return 0;
}

// Opens all models as the server does, and says which it would do without.
int Check(const std::string& path, const abacus::Config& config) {
  const bool need_files = abacus::WorkerSupervisor::SettingsFor(config).needs_model_files();
  const auto models = abacus::HoldModels(config, need_files);
  size_t down = 0;
  for (size_t i = 0; i < models.size(); ++i) {
    if (models[i]) continue;
    ++down;
    fmt::print(stderr, "abacus-controller: {} would be down: {}\n", config.services[i].name,
               models[i].error().message());
  }
  fmt::print("{}: {} services, policy {}\n", path, config.services.size(), config.scheduler.policy);
  return down == 0 ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t start_ns = abacus::MonotonicNs();
  CLI::App app("Abacus controller: serves several models with predictable latency");
  std::string path;
  std::vector<std::string> overrides;
  bool check = false, json = false, skip_models = false, run_dir = false;
  app.add_option("--config", path, "Configuration file (TOML); required but with --run-dir");
  app.add_option("--set", overrides, "Override a setting: section.key=value (repeatable)");
  CLI::Option* check_flag = app.add_flag("--check", check, "Validate the configuration and exit");
  app.add_flag("--json", json, "With --check: print every setting in force, and the run directory, as JSON")
      ->needs(check_flag);
  app.add_flag("--skip-models", skip_models, "With --check: do not open models, which may not exist yet")
      ->needs(check_flag);
  app.add_flag("--run-dir", run_dir, "Print the directory of locks, sockets and logs, and exit");
  try {
    app.parse(argc, argv);
    if (path.empty() && !run_dir) throw CLI::RequiredError("--config");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // 0: --help
  }
  if (run_dir) return PrintRunDirectory();

  const auto config =
      abacus::LoadConfig(path, overrides, skip_models ? abacus::ModelFiles::kSkip : abacus::ModelFiles::kRead);
  if (!config) return Fail(2, config.error().message());
  if (json) return PrintJson(*config);
  if (check && !skip_models) return Check(path, *config);
  if (check) {
    fmt::print("{}: {} services, policy {}\n", path, config->services.size(), config->scheduler.policy);
    return 0;
  }
  abacus::InitLog("controller", config->server.log_level);
  if (const abacus::Status status = abacus::RunServer(*config, start_ns); !status.ok()) {
    abacus::LogError("{}", status.message());
    return 1;
  }
  return 0;
}
