// The bench command: what it costs that a batch is made of several queries. For every bucket it times a whole pass of
// one query that fills it against passes of as many queries as can fill it, whose blocks lie scattered over the memory
// as in a server's arena, with real gathering and scattering; where lengths may be padded, also of queries of unequal
// lengths. The passes take turns.
//
// Thread rule: one thread; loads the model in it.
#ifndef ABACUS_WORKER_APP_BENCH_H_
#define ABACUS_WORKER_APP_BENCH_H_

#include <cstdint>
#include <filesystem>
#include <vector>

#include "worker/app/runtime_factory.h"

namespace abacus {

struct BenchOptions {
  std::filesystem::path model;  // NAME.toml
  RuntimeOptions runtime;
  std::vector<int64_t> batches;  // only buckets of these batch sizes; empty: all
  int repetitions = 100;         // of each pass; the median counts
  bool json = false;             // one JSON object per bucket and line, instead of a table
};

// Results go to standard output, progress and errors to standard error. Returns the exit code: 0, or 2 when the model
// could not be loaded or run.
int RunBench(const BenchOptions& options);

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_BENCH_H_
