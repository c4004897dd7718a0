// The subcommands of abacus-bench. Each prints a table for people and, with --json FILE, the same figures for scripts.
#ifndef ABACUS_BENCH_BENCH_H_
#define ABACUS_BENCH_BENCH_H_

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace abacus::bench {

// Each adds its subcommand; running it sets *exit_code.
void AddRingBench(CLI::App& app, int* exit_code);
void AddFrontendBench(CLI::App& app, int* exit_code);
void AddLifecycleBench(CLI::App& app, int* exit_code);
void AddHeadroomBench(CLI::App& app, int* exit_code);
void AddSimulate(CLI::App& app, int* exit_code);

// Folder of the running program, where the other programs are too.
std::filesystem::path BinDir();

// Writes what --json asks for, if it does; false, and says why, when the file cannot be written.
bool WriteJson(const std::string& path, const nlohmann::json& figures);

// Value at quantile q (0..1) of sorted samples.
inline uint64_t Quantile(const std::vector<uint64_t>& sorted, double q) {
  if (sorted.empty()) return 0;
  const auto index = static_cast<size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)));
  return sorted[std::min(index, sorted.size() - 1)];
}

}  // namespace abacus::bench

#endif  // ABACUS_BENCH_BENCH_H_
