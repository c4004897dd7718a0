// abacus-bench: measures the parts of Abacus that are not a model.
#include <fmt/format.h>

#include "bench/bench.h"

int main(int argc, char** argv) {
  CLI::App app("Abacus benchmarks");
  app.require_subcommand(1);
  int exit_code = 0;
  abacus::bench::AddRingBench(app, &exit_code);
  abacus::bench::AddFrontendBench(app, &exit_code);
  CLI11_PARSE(app, argc, argv);
#ifndef NDEBUG
  fmt::print(stderr, "warning: this is a debug build; its figures mean nothing\n");
#endif
  return exit_code;
}
