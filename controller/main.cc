// abacus-controller: reads the configuration and runs the server. Exit codes: 0 stopped by a signal, 1 could not run,
// 2 wrong command line or configuration.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "controller/config.h"
#include "controller/server.h"
#include "shm/clock.h"
#include "shm/log.h"

int main(int argc, char** argv) {
  const uint64_t start_ns = abacus::MonotonicNs();
  CLI::App app("Abacus controller: serves several models with predictable latency");
  std::string path;
  std::vector<std::string> overrides;
  bool check = false;
  app.add_option("--config", path, "Configuration file (TOML)")->required();
  app.add_option("--set", overrides, "Override a setting: section.key=value (repeatable)");
  app.add_flag("--check", check, "Validate the configuration and exit");
  CLI11_PARSE(app, argc, argv);

  const auto config = abacus::LoadConfig(path, overrides);
  if (!config) {
    fmt::print(stderr, "abacus-controller: {}\n", config.error().message());
    return 2;
  }
  if (check) {
    fmt::print("{}: {} services, policy {}\n", path, config->services.size(), config->scheduler.policy);
    return 0;
  }
  abacus::InitLog("controller", config->server.log_level);
  if (const abacus::Status status = abacus::RunServer(*config, start_ns); !status.ok()) {
    spdlog::error("{}", status.message());
    return 1;
  }
  return 0;
}
