// Loads a TorchScript file, optimises it and proves the result before it may serve.
//
// Steps: load; freeze; check; optimize_for_inference; check. A check runs the plain module and the graph that would
// serve on seeded sample inputs of the smallest and the largest bucket and refuses when an output's number, dtype or
// shape contradicts the TOML, when it is not finite where the plain one is, or when max|a - b| / max|b| exceeds
// ModelSpec::tolerance. LibTorch's optimisations have been wrong before, so none is trusted unchecked: one that fails
// its check leaves the model served without it, with a warning; a frozen graph that fails is refused.
//
// Models are programs: load only files from a trusted directory. What a model cannot be is stateful: a graph that
// writes attributes would let one query change the next and is refused.
//
// Thread rule: one thread. Ownership: LoadedModel owns the weights. Errors: NOT_FOUND, INVALID_ARGUMENT; no exception
// leaves these functions. Every message names the model.
#ifndef ABACUS_WORKER_MODEL_LOADER_H_
#define ABACUS_WORKER_MODEL_LOADER_H_

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/model_spec.h"
#include "shm/status.h"
#include "worker/torch_tensors.h"

namespace abacus {

using ProgressFn = std::function<void(std::string_view)>;

struct LoadedModel {
  std::string name;
  double tolerance = 0;                      // ModelSpec::tolerance
  torch::jit::Module module;                 // frozen and optimised; graph input 0
  std::shared_ptr<torch::jit::Graph> graph;  // of forward(), inlined, without dead code: what serves
  std::vector<BucketPlan> buckets;
};

Result<LoadedModel> LoadModel(const ModelSpec& spec, at::Device device, const ProgressFn& progress);

// The module as exported, in evaluation mode, with forward()'s arguments checked against the spec.
Result<torch::jit::Module> LoadPlainModule(const ModelSpec& spec, at::Device device);
// Runs forward() without LibTorch's graph optimisations, on inputs in host memory. Outputs stay on the device.
Result<std::vector<at::Tensor>> RunPlain(torch::jit::Module& module, at::Device device,
                                         const std::vector<at::Tensor>& inputs);

}  // namespace abacus

#endif  // ABACUS_WORKER_MODEL_LOADER_H_
