// Profiler: measures what the latency predictor is trained on, on the workers and rounds that serve.
//
// 1. For each model and bucket: the solo time of the prefix up to every cut point.
// 2. Groups of ranges of different models (sampler.h) until the wanted number or the time is reached.
//
// Every result is written before the next is measured, so an interrupted run goes on where it stopped. A group whose
// worker dies is skipped and counted, and the worker restarted. Thread rule: the main thread.
#ifndef ABACUS_PROFILER_PROFILER_H_
#define ABACUS_PROFILER_PROFILER_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/status.h"
#include "controller/config/config.h"

namespace abacus {

struct ProfileOptions {
  std::filesystem::path out;
  uint64_t groups = 0;       // in all, those of earlier runs included; 0: as many as the time allows
  double minutes = 0;        // of this run's group measurements; 0: until `groups`
  uint32_t repetitions = 3;  // of each measurement, after one that warms up
  uint64_t seed = 1;
  bool fresh = false;  // overwrite an existing profile instead of going on with it
  // Whose driver and clocks are noted, as nvidia-smi knows it (index or UUID); empty: worker.gpu. Behind an MPS daemon
  // that has one GPU, that one is number 0 to CUDA, whatever it is to nvidia-smi.
  std::string nvidia_smi_gpu;
};

// Errors: kShuttingDown when interrupted (everything measured is in the file), else what was wrong.
Status RunProfiler(Config config, const ProfileOptions& options);

}  // namespace abacus

#endif  // ABACUS_PROFILER_PROFILER_H_
