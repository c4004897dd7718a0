// TorchScriptProgram: a model from a TorchScript file, optimised, and proven before it may serve.
//
// Load: load; freeze; check; optimize_for_inference; check. A check runs the plain module and the graph that would
// serve on seeded sample inputs of the smallest and the largest bucket and refuses when an output's number, dtype or
// shape contradicts the TOML, when it is not finite where the plain one is, or when max|a - b| / max|b| exceeds
// ModelSpec::tolerance. LibTorch's optimisations have been wrong before, so none is trusted unchecked: one that fails
// its check leaves the model served without it, with a warning; a frozen graph that fails is refused.
//
// The graph runs in LibTorch's interpreter alone, without profiling executor or run-time fusion, so that it is the same
// on every start.
//
// Models are programs: load only files from a trusted directory. What a model cannot be is stateful: a graph that
// writes attributes would let one query change the next and is refused.
//
// Thread rule, ownership: as ModelProgram. Errors: Load NOT_FOUND or INVALID_ARGUMENT, with the model's name; Forward
// WORKER_FAILED; Reference INVALID_ARGUMENT.
#ifndef ABACUS_WORKER_TORCH_TORCH_SCRIPT_PROGRAM_H_
#define ABACUS_WORKER_TORCH_TORCH_SCRIPT_PROGRAM_H_

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "worker/torch/model_program.h"

namespace abacus {

class TorchScriptProgram : public ModelProgram {
 public:
  static Result<std::unique_ptr<TorchScriptProgram>> Load(const ModelSpec& spec, at::Device device,
                                                          const ProgressFn& progress);

  Result<std::vector<at::Tensor>> Forward(uint32_t bucket, const std::vector<at::Tensor>& inputs) override;
  Result<std::vector<at::Tensor>> Reference(uint32_t bucket, const std::vector<at::Tensor>& inputs) override;

  // Frozen and optimised; input 0 of the graph.
  const torch::jit::Module& module() const { return module_; }
  // Of forward(), inlined, without dead code: what serves.
  const std::shared_ptr<torch::jit::Graph>& graph() const { return graph_; }

 private:
  TorchScriptProgram(const ModelSpec& spec, at::Device device) : ModelProgram(spec), device_(device) {}

  // Loads the module as exported, in evaluation mode, with forward()'s arguments checked against the spec.
  Status LoadPlain();
  // Outputs of the plain module for the smallest and the largest bucket, checked against the TOML.
  Status RunPlainSamples(const ProgressFn& progress);
  // Takes over `transform`'s module when it passes the check; otherwise leaves the program as it was.
  Status Attempt(std::string_view step, const std::function<torch::jit::Module()>& transform);
  Status CheckSamples(const torch::jit::Module& module, const torch::jit::Code& code, std::string_view step) const;
  Status Refuse(std::string_view what) const;

  // What the plain module made of a bucket's sample.
  struct Expected {
    const BucketPlan* plan;
    std::vector<at::Tensor> outputs;
  };

  const at::Device device_;
  std::optional<torch::jit::Module> plain_;  // while loading, and from the first Reference on
  std::vector<Expected> expected_;           // while loading
  torch::jit::Module module_;
  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::Code code_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TORCH_SCRIPT_PROGRAM_H_
