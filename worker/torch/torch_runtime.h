// TorchRuntime: a ModelRuntime that runs a ModelProgram, on the CPU (InterpreterRuntime) or a GPU (GraphRuntime).
//
// Free of LibTorch headers, so that the worker's main program compiles in seconds.
// Thread rule, ownership and errors: as ModelRuntime.
#ifndef ABACUS_WORKER_TORCH_TORCH_RUNTIME_H_
#define ABACUS_WORKER_TORCH_TORCH_RUNTIME_H_

#include <cstdint>
#include <span>

#include "worker/runtime/model_runtime.h"

namespace abacus {

class ModelProgram;

class TorchRuntime : public ModelRuntime {
 public:
  // What is being run; the runtime owns it.
  virtual ModelProgram& program() = 0;

  // Runs the whole model the way it would run if ranges did not exist: the graph as captured, or the program's Forward.
  // The check command compares ranges with it. Ends a job in progress.
  virtual Status RunUncut(uint32_t bucket, const JobTensors& tensors) = 0;

  // Runs a whole job in consecutive ranges, [chain[0], chain[1]), [chain[1], chain[2]), ..., and waits for the device
  // only at its end: what cutting costs the device, without the wait after each range that serving adds.
  virtual Status RunBackToBack(uint32_t bucket, std::span<const uint32_t> chain, const JobTensors& tensors) {
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      ABACUS_RETURN_IF_ERROR(Run(bucket, chain[i], chain[i + 1], tensors));
    }
    return Status::Ok();
  }
};

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TORCH_RUNTIME_H_
