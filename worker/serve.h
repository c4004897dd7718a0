// The life of a worker process: attach to the segment, load the model, publish its ranges, execute until told to stop
// or until the controller is gone.
//
// The process notices a dead controller through a pidfd and exits by itself, so nothing is left behind; it never kills
// itself in the middle of GPU work, and opens the gate for good so that work which waits there comes to its end.
#ifndef ABACUS_WORKER_SERVE_H_
#define ABACUS_WORKER_SERVE_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "worker/model_runtime.h"

namespace abacus {

struct ServeOptions {
  std::string segment;  // [server] name
  uint32_t index = 0;   // of the worker block
  std::string model;    // NAME.toml
  std::string device = "cpu";
  int gpu = 0;
  int cpu_threads = 1;
  uint32_t spin_us = 0;
  std::string gate = "device";  // "device" or "host": where ranges of a GPU wait that were sent ahead of their round
  bool gpu_timestamps = false;
  std::string log_level = "info";
};

// Makes the runtime for `options.device`; `progress` is called with what it is doing.
using RuntimeFactory = std::function<Result<std::unique_ptr<ModelRuntime>>(
    const ModelSpec& spec, const ServeOptions& options, const std::function<void(std::string_view)>& progress)>;

// Adds the options of `serve` to a command line.
void AddServeOptions(CLI::App& app, ServeOptions* options);

// Runs a worker to its end. Returns the process exit code: 0 ordered stop, 1 failed (WorkerBlock::error says why).
int Serve(const ServeOptions& options, const RuntimeFactory& factory);

}  // namespace abacus

#endif  // ABACUS_WORKER_SERVE_H_
