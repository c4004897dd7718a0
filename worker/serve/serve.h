// The life of a worker process: attach to the segment, take the model over, load it, measure when it is its turn,
// publish its ranges, execute until told to stop or until the controller is gone.
//
// With a digest the model is the one that the controller holds (models/held_model.h); any other is refused.
//
// The process notices a dead controller through a pidfd and exits by itself, so nothing is left behind; it never kills
// itself in the middle of GPU work, and opens its lane's gate for good so that work which waits there comes to its end.
#ifndef ABACUS_WORKER_SERVE_SERVE_H_
#define ABACUS_WORKER_SERVE_SERVE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/ids.h"
#include "worker/runtime/model_runtime.h"

namespace abacus {

struct ServeOptions {
  std::string segment;  // [server] name
  WorkerId worker;      // whose slot of the segment
  std::string model;    // NAME.toml
  std::string digest;   // of the model, which the controller hands over; empty: the files are opened by name
  std::string device = "cpu";
  std::string gpu = "0";  // index or UUID
  int cpu_threads = 1;
  uint32_t spin_us = 0;
  std::string gate = "device";  // "device" or "host": where ranges of a GPU wait that were sent ahead of their round
  bool gpu_timestamps = false;
  std::string log_level = "info";
};

// Makes the runtime for `options.device`.
using RuntimeFactory = std::function<Result<std::unique_ptr<ModelRuntime>>(
    const ModelSpec& spec, const ServeOptions& options, const LoadHooks& hooks)>;

// Runs a worker to its end. Returns the process exit code: 0 ordered stop, 1 failed (WorkerSlot::error says why, and
// error_code of what kind it is).
int Serve(const ServeOptions& options, const RuntimeFactory& factory);

}  // namespace abacus

#endif  // ABACUS_WORKER_SERVE_SERVE_H_
