// abacus-client: queries, load, models and health of an Abacus server from the command line.
#include <CLI/CLI.hpp>

#include "client/commands.h"

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
