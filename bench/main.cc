// abacus-bench: measures the parts of Abacus that are not a model.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "bench/bench.h"
#include "predictor/whole_file.h"

std::filesystem::path abacus::bench::BinDir() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

bool abacus::bench::WriteJson(const std::string& path, const nlohmann::json& figures) {
  if (path.empty()) return true;
  const Status status = WriteWholeFile(path, figures.dump(2) + "\n");
  if (!status.ok()) fmt::print(stderr, "abacus-bench: {}\n", status.message());
  return status.ok();
}

int main(int argc, char** argv) {
  CLI::App app("Abacus benchmarks");
  app.require_subcommand(1);
  int exit_code = 0;
  abacus::bench::AddRingBench(app, &exit_code);
  abacus::bench::AddFrontendBench(app, &exit_code);
  abacus::bench::AddLifecycleBench(app, &exit_code);
  abacus::bench::AddHeadroomBench(app, &exit_code);
  abacus::bench::AddSimulate(app, &exit_code);
  CLI11_PARSE(app, argc, argv);
#ifndef NDEBUG
  fmt::print(stderr, "warning: this is a debug build; its figures mean nothing\n");
#endif
  return exit_code;
}
