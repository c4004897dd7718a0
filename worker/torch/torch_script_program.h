// TorchScriptProgram: a model from a TorchScript file, optimised, and proven before it may serve.
//
// Load: load; freeze; on a GPU optimize_for_inference; each step proven against the module as exported (load_check.h);
// then what the description claims is checked on what will serve (claim_check.h). LibTorch's optimisations have been
// wrong before, so none is trusted unchecked: one that fails its proof leaves the model served without it, with a
// warning; a frozen graph that fails is refused. Batch norms, sums and products that follow a convolution are folded
// into it by LibTorch's passes; freeze() folds nothing itself (torch_script_program.cc says why).
//
// On the CPU optimize_for_inference is never used. Its conversion to oneDNN keeps one operation per name within a piece
// of code, so that a second clamp takes the bounds of the first, its ReLU turns NaN into numbers in most runs, and it
// slows some models down. What it gains on others is less than freezing alone brings.
//
// The graph runs in LibTorch's interpreter alone, without profiling executor or run-time fusion, so that it is the same
// on every start.
//
// Models are programs: load only files from a trusted directory. What a model cannot be is stateful or random
// (graph_check.h): one query would change the next.
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
#include <string>
#include <vector>

#include "worker/torch/load_check.h"
#include "worker/torch/model_program.h"

namespace abacus {

class TorchScriptProgram : public ModelProgram {
 public:
  static Result<std::unique_ptr<TorchScriptProgram>> Load(const ModelSpec& spec, at::Device device,
                                                          const ProgressFn& progress);

  Result<std::vector<at::Tensor>> Forward(uint32_t bucket, const std::vector<at::Tensor>& inputs) override;
  Result<std::vector<at::Tensor>> Reference(uint32_t bucket, const std::vector<at::Tensor>& inputs) override;
  const std::string& structure() const override { return structure_; }
  bool usual_inputs_only() const override { return usual_only_; }

  // Frozen and optimised; input 0 of the graph.
  const torch::jit::Module& module() const { return module_; }
  // Of forward(), inlined, without dead code: what serves.
  const std::shared_ptr<torch::jit::Graph>& graph() const { return graph_; }

 private:
  TorchScriptProgram(const ModelSpec& spec, at::Device device) : ModelProgram(spec), device_(device) {}

  // Loads the module as exported, in evaluation mode, with forward()'s arguments checked against the spec.
  Status LoadPlain();
  // Freezes and, on a GPU, optimises it, with proof.
  Status Transform(const ProgressFn& report);
  // Takes over `transform`'s module when it passes the check; otherwise leaves the program as it was.
  Status Attempt(const LoadCheck& check, std::string_view step, const std::function<torch::jit::Module()>& transform);
  Status CheckClaims();
  Result<std::vector<at::Tensor>> RunPlain(const std::vector<at::Tensor>& inputs) const;
  Status Refuse(std::string_view what) const;

  const at::Device device_;
  std::optional<torch::jit::Module> plain_;  // while loading, and from the first Reference on
  bool usual_only_ = false;                  // inputs far from the usual may do harm
  torch::jit::Module module_;
  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::Code code_;
  std::string structure_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TORCH_SCRIPT_PROGRAM_H_
