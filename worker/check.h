// The check command: proves that a model gives bit-identical outputs however it is cut, and times the cuts.
//
// For each bucket the uncut run is the reference. Compared with it, byte by byte: the whole range, every cut point
// ([0, k) then [k, N)), the chain of all intervals, and random chains of three and four ranges. A run on other inputs
// comes before each, and output memory is overwritten, so that a range which reads memory of an earlier run or skips
// its output shows up as a difference. The uncut run itself is compared with the plain module within the tolerance.
//
// Thread rule: one thread; loads the model in it.
#ifndef ABACUS_WORKER_CHECK_H_
#define ABACUS_WORKER_CHECK_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "worker/runtime_factory.h"

namespace abacus {

struct CheckOptions {
  std::filesystem::path model;  // NAME.toml
  RuntimeOptions runtime;
  std::vector<int64_t> batches;  // buckets of these batch sizes; empty: all buckets
  int repetitions = 20;          // of each timing; the median counts
  bool json = false;             // one JSON object per bucket and line, instead of a table
};

// Adds `check` to the command line of a program. When it was chosen, `*options` is filled in.
CLI::App* AddCheckCommand(CLI::App& app, CheckOptions* options);

// Results go to standard output, progress and errors to standard error. Returns the exit code: 0 all outputs agree,
// 1 some differ, 2 the model could not be loaded or run.
int RunCheck(const CheckOptions& options);

}  // namespace abacus

#endif  // ABACUS_WORKER_CHECK_H_
