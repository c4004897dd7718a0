// What a worker that loads its model has to do with its slot: it waits for its turn to measure, and takes over what the
// process before it measured.
//
// Thread rule: the thread that loads the model.
#ifndef ABACUS_WORKER_SERVE_MEASURING_H_
#define ABACUS_WORKER_SERVE_MEASURING_H_

#include <atomic>
#include <string>
#include <vector>

#include "models/model_spec.h"
#include "shm/layout.h"
#include "worker/runtime/model_runtime.h"

namespace abacus {

// Writes the state where the controller reads it.
void SetWorkerState(WorkerSlot* slot, WorkerState state);

// Waits in kAwaitsTurn until the controller gives this worker its turn, and leaves it in kMeasuring. False when the
// worker is to stop instead: ordered by the controller, or because `stop` was set (the controller is gone).
bool AwaitTurn(WorkerSlot* slot, const std::atomic<bool>& stop);

// What an earlier process in this slot measured, and on what.
struct EarlierMeasurement {
  std::vector<BucketRanges> ranges;  // by bucket; empty: nothing that is known to hold for this model
  std::string device_name;
  std::string libraries;

  // Whether it holds for `runtime`, too: one that took nothing over, or that runs on the same device.
  bool HoldsFor(const ModelRuntime& runtime) const;
};

// `digest`: of the model that is loaded now; "": unknown. To be called before anything is loaded.
EarlierMeasurement ReadEarlierMeasurement(const WorkerSlot& slot, const ModelSpec& spec, const std::string& digest);

}  // namespace abacus

#endif  // ABACUS_WORKER_SERVE_MEASURING_H_
