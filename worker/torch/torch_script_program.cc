#include "worker/torch/torch_script_program.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/frozen_conv_folding.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <exception>
#include <utility>

#include "worker/torch/claim_check.h"
#include "worker/torch/graph_check.h"
#include "worker/torch/graph_digest.h"
#include "worker/torch/torch_script_file.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

std::shared_ptr<torch::jit::Graph> InlinedGraph(const torch::jit::Module& module) {
  std::shared_ptr<torch::jit::Graph> graph = module.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  torch::jit::EliminateDeadCode(graph);
  return graph;
}

Result<std::vector<at::Tensor>> RunGraph(const torch::jit::Module& module, const torch::jit::Code& code,
                                         const std::vector<at::Tensor>& inputs) {
  try {
    const c10::InferenceMode inference;
    torch::jit::Stack stack = {module._ivalue()};
    stack.insert(stack.end(), inputs.begin(), inputs.end());
    torch::jit::InterpreterState(code).run(stack);
    return FlattenOutputs(stack.at(0));
  } catch (const std::exception& error) {
    return Error(StatusCode::kWorkerFailed, ErrorText(error));
  }
}

// Constants in place of parameters. freeze() is not to fold anything itself: it puts a batch norm into the linear layer
// before it also where others read that layer's output (LibTorch 2.11).
torch::jit::Module Frozen(const torch::jit::Module& plain) {
  // Without "training" the file holds a module that was frozen when it was exported.
  if (!plain.hasattr("training")) return plain;
  return torch::jit::freeze(plain, /*preserved_attrs=*/std::nullopt, /*optimize_numerics=*/false);
}

// What follows a convolution, folded into it. Changes the graph of `frozen`.
torch::jit::Module Folded(const torch::jit::Module& frozen) {
  std::shared_ptr<torch::jit::Graph> graph = frozen.get_method("forward").graph();
  for (bool changed = true; changed;) {
    changed = torch::jit::FoldFrozenConvBatchnorm(graph);
    changed |= torch::jit::FoldFrozenConvAddOrSub(graph);
    changed |= torch::jit::FoldFrozenConvMulOrDiv(graph);
  }
  return frozen;
}

}  // namespace

Result<std::unique_ptr<TorchScriptProgram>> TorchScriptProgram::Load(const ModelSpec& spec, at::Device device,
                                                                     const ProgressFn& progress) {
  const auto report = [&progress](std::string_view stage) {
    if (progress) progress(stage);
  };
  std::unique_ptr<TorchScriptProgram> program(new TorchScriptProgram(spec, device));
  try {
    report("load");
    ABACUS_RETURN_IF_ERROR(program->LoadPlain());
    ABACUS_RETURN_IF_ERROR(program->Transform(report));
    report("check");
    if (const Status claims = program->CheckClaims(); !claims.ok()) return Error(program->Refuse(claims.message()));
    program->structure_ = StructureDigest(spec, program->module_, *program->graph_);
    program->plain_.reset();  // its weights are not those that serve
    return program;
  } catch (const std::exception& error) {  // of a comparison: the device failed meanwhile, or memory ran out
    return Error(program->Refuse(ErrorText(error)));
  }
}

Result<std::vector<at::Tensor>> TorchScriptProgram::Forward(uint32_t /*bucket*/,
                                                            const std::vector<at::Tensor>& inputs) {
  return RunGraph(module_, code_, inputs);
}

Result<std::vector<at::Tensor>> TorchScriptProgram::Reference(uint32_t /*bucket*/,
                                                              const std::vector<at::Tensor>& inputs) {
  if (!plain_) ABACUS_RETURN_IF_ERROR(LoadPlain());
  return RunPlain(inputs);
}

Result<std::vector<at::Tensor>> TorchScriptProgram::RunPlain(const std::vector<at::Tensor>& inputs) const {
  try {
    const c10::InferenceMode inference;
    const torch::jit::GraphOptimizerEnabledGuard plain_execution(false);
    std::vector<c10::IValue> arguments;
    for (at::Tensor& input : CopiesOn(device_, inputs)) arguments.emplace_back(std::move(input));
    torch::jit::Module module = *plain_;
    return FlattenOutputs(module.forward(std::move(arguments)));
  } catch (const std::exception& error) {
    return Error(StatusCode::kInvalidArgument, "forward() failed: " + ErrorText(error));
  }
}

Status TorchScriptProgram::LoadPlain() {
  Result<torch::jit::Module> module = LoadTorchScript(spec(), device_);
  if (!module) return module.error();
  plain_ = std::move(*module);
  return Status::Ok();
}

Status TorchScriptProgram::Transform(const ProgressFn& report) {
  const torch::jit::Module& plain = *plain_;
  usual_only_ = MayRunAway(*InlinedGraph(plain), device_.is_cuda());
  LoadCheck check(spec(), buckets());
  const Status recorded =
      check.Record([this](const std::vector<at::Tensor>& inputs) { return RunPlain(inputs); }, usual_only_,
                   [&report](std::string_view what) { report(c10::str("warning: ", what)); });
  if (!recorded.ok()) return Refuse(recorded.message());

  report("freeze");
  ABACUS_RETURN_IF_ERROR(Attempt(check, "freezing the module", [&plain] { return Frozen(plain); }));
  // What makes it faster is taken where it changes nothing, and each step works on a module of its own: some of them
  // stop half way.
  const auto improve = [&](std::string_view what, const std::function<torch::jit::Module()>& transform) {
    const Status improved = Attempt(check, what, transform);
    if (!improved.ok()) report(c10::str("warning: serving the model without ", what, ": ", improved.message()));
    return improved.ok();
  };
  const bool folded = improve("folding into convolutions", [&plain] { return Folded(Frozen(plain)); });
  if (!device_.is_cuda()) return Status::Ok();
  report("optimise");
  improve("optimize_for_inference", [&plain, folded] {
    torch::jit::Module module = folded ? Folded(Frozen(plain)) : Frozen(plain);
    return torch::jit::optimize_for_inference(module);
  });
  return Status::Ok();
}

Status TorchScriptProgram::Attempt(const LoadCheck& check, std::string_view step,
                                   const std::function<torch::jit::Module()>& transform) {
  try {
    torch::jit::Module module = transform();
    std::shared_ptr<torch::jit::Graph> graph = InlinedGraph(module);
    if (const Status status = CheckStateless(graph); !status.ok()) return Refuse(status.message());
    torch::jit::Code code(graph, "forward");
    const Status same = check.Compare(
        [&](const std::vector<at::Tensor>& inputs) { return RunGraph(module, code, CopiesOn(device_, inputs)); });
    if (!same.ok()) return Refuse(c10::str(step, " changed the model: ", same.message()));
    module_ = std::move(module);
    graph_ = std::move(graph);
    code_ = std::move(code);
    return Status::Ok();
  } catch (const std::exception& error) {
    return Refuse(c10::str(step, " failed: ", ErrorText(error)));
  }
}

Status TorchScriptProgram::CheckClaims() {
  const RunFn serving = [this](const std::vector<at::Tensor>& inputs) {
    return RunGraph(module_, code_, CopiesOn(device_, inputs));
  };
  const RunFn plain = [this](const std::vector<at::Tensor>& inputs) { return RunPlain(inputs); };
  const ClaimCheck check(spec(), serving, plain, usual_only_);
  ABACUS_RETURN_IF_ERROR(check.CheckState());
  ABACUS_RETURN_IF_ERROR(check.CheckBatch());
  return check.CheckSequence();
}

Status TorchScriptProgram::Refuse(std::string_view what) const {
  return {StatusCode::kInvalidArgument, c10::str("model \"", name(), "\" (", spec().file.string(), "): ", what)};
}

}  // namespace abacus
