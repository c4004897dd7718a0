#include "worker/torch/torch_script_program.h"

#include <ATen/core/Formatting.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <exception>
#include <filesystem>
#include <system_error>
#include <utility>

#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

// Copies on the device, so that a model that writes to its inputs leaves the originals alone.
std::vector<at::Tensor> CopiesOn(at::Device device, const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& tensor : tensors) {
    copies.push_back(tensor.to(device, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
  }
  return copies;
}

std::shared_ptr<torch::jit::Graph> ServingGraph(const torch::jit::Module& module) {
  std::shared_ptr<torch::jit::Graph> graph = module.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  torch::jit::EliminateDeadCode(graph);
  return graph;
}

// Error when the graph changes an attribute of the module.
Status CheckStateless(const std::shared_ptr<torch::jit::Graph>& graph) {
  const torch::jit::AliasDb aliases(graph, /*isFrozen=*/true);  // each attribute is memory of its own
  bool writes = false;
  const std::function<void(torch::jit::Block*)> visit = [&](torch::jit::Block* block) {
    for (torch::jit::Node* node : block->nodes()) {
      writes = writes || node->kind() == torch::jit::prim::SetAttr ||
               (node->kind() == torch::jit::prim::GetAttr && aliases.hasWriters(node->output()));
      for (torch::jit::Block* inner : node->blocks()) visit(inner);
    }
  };
  visit(graph->block());
  if (!writes) return Status::Ok();
  return {StatusCode::kInvalidArgument,
          "forward() changes attributes of the module, so that one query would affect the next; export it without "
          "state"};
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

}  // namespace

Result<std::unique_ptr<TorchScriptProgram>> TorchScriptProgram::Load(const ModelSpec& spec, at::Device device,
                                                                     const ProgressFn& progress) {
  const auto report = [&progress](std::string_view stage) {
    if (progress) progress(stage);
  };
  std::unique_ptr<TorchScriptProgram> program(new TorchScriptProgram(spec, device));
  report("load");
  ABACUS_RETURN_IF_ERROR(program->LoadPlain());
  ABACUS_RETURN_IF_ERROR(program->RunPlainSamples(report));

  report("freeze");
  const torch::jit::Module& plain = *program->plain_;
  ABACUS_RETURN_IF_ERROR(program->Attempt("freezing the module", [&plain] {
    // Without "training" the file holds a module that was frozen when it was exported.
    return plain.hasattr("training") ? torch::jit::freeze(plain) : plain;
  }));
  report("optimise");
  torch::jit::Module frozen = program->module_;
  const Status optimised =
      program->Attempt("optimize_for_inference", [&frozen] { return torch::jit::optimize_for_inference(frozen); });
  if (!optimised.ok()) {
    report(c10::str("warning: serving the frozen module without optimize_for_inference: ", optimised.message()));
  }
  program->expected_.clear();
  program->plain_.reset();  // its weights are not those that serve
  return program;
}

Result<std::vector<at::Tensor>> TorchScriptProgram::Forward(uint32_t /*bucket*/,
                                                            const std::vector<at::Tensor>& inputs) {
  return RunGraph(module_, code_, inputs);
}

Result<std::vector<at::Tensor>> TorchScriptProgram::Reference(uint32_t /*bucket*/,
                                                              const std::vector<at::Tensor>& inputs) {
  if (!plain_) ABACUS_RETURN_IF_ERROR(LoadPlain());
  try {
    const c10::InferenceMode inference;
    const torch::jit::GraphOptimizerEnabledGuard plain_execution(false);
    std::vector<c10::IValue> arguments;
    for (at::Tensor& input : CopiesOn(device_, inputs)) arguments.emplace_back(std::move(input));
    return FlattenOutputs(plain_->forward(std::move(arguments)));
  } catch (const std::exception& error) {
    return Error(StatusCode::kInvalidArgument, "forward() failed: " + ErrorText(error));
  }
}

Status TorchScriptProgram::LoadPlain() {
  const ModelSpec& model = spec();
  const std::string context = c10::str("model \"", model.name, "\" (", model.file.string(), "): ");
  std::error_code error_code;
  if (!std::filesystem::is_regular_file(model.file, error_code)) {
    return {StatusCode::kNotFound,
            context + "no such file; export the model or correct `file` in " + model.toml_path.string()};
  }
  try {
    // Not loaded onto a GPU directly: that would move the graph's constants too, and a number that a shape is computed
    // with (on the CPU) would be copied back from the GPU in every run, which no CUDA graph can capture.
    const std::optional<c10::Device> onto = device_.is_cuda() ? std::nullopt : std::optional(device_);
    torch::jit::Module module = torch::jit::load(model.file.string(), onto);
    module.to(device_);
    module.eval();
    const std::optional<torch::jit::Method> forward = module.find_method("forward");
    if (!forward) return {StatusCode::kInvalidArgument, context + "the module has no forward()"};
    const size_t arguments = forward->num_inputs() - 1;  // without self
    if (arguments != model.inputs.size()) {
      return {StatusCode::kInvalidArgument, c10::str(context, "forward() takes ", arguments, " inputs, ",
                                                     model.toml_path.string(), " declares ", model.inputs.size())};
    }
    plain_ = std::move(module);
    return Status::Ok();
  } catch (const std::exception& error) {
    return {StatusCode::kInvalidArgument, context + "not a usable TorchScript file: " + ErrorText(error)};
  }
}

Status TorchScriptProgram::RunPlainSamples(const ProgressFn& report) {
  std::vector<uint32_t> samples = {0};
  if (buckets().size() > 1) samples.push_back(static_cast<uint32_t>(buckets().size() - 1));
  for (const uint32_t bucket : samples) {
    const BucketPlan& plan = buckets()[bucket];
    Result<std::vector<at::Tensor>> outputs = Reference(bucket, plan.sample);
    if (!outputs) return Refuse(c10::str("at ", plan.label, ": ", outputs.error().message()));
    if (Status status = CheckOutputs(plan, *outputs); !status.ok()) return Refuse(status.message());
    for (size_t i = 0; i < outputs->size(); ++i) {
      if (!at::isfinite((*outputs)[i]).all().item<bool>()) {
        report(c10::str("warning: output \"", plan.outputs[i].name, "\" of the plain module is not finite at ",
                        plan.label));
      }
    }
    expected_.push_back({&plan, std::move(*outputs)});
  }
  return Status::Ok();
}

Status TorchScriptProgram::Attempt(std::string_view step, const std::function<torch::jit::Module()>& transform) {
  try {
    torch::jit::Module module = transform();
    std::shared_ptr<torch::jit::Graph> graph = ServingGraph(module);
    if (Status status = CheckStateless(graph); !status.ok()) return Refuse(status.message());
    torch::jit::Code code(graph, "forward");
    ABACUS_RETURN_IF_ERROR(CheckSamples(module, code, step));
    module_ = std::move(module);
    graph_ = std::move(graph);
    code_ = std::move(code);
    return Status::Ok();
  } catch (const std::exception& error) {
    return Refuse(c10::str(step, " failed: ", ErrorText(error)));
  }
}

Status TorchScriptProgram::CheckSamples(const torch::jit::Module& module, const torch::jit::Code& code,
                                        std::string_view step) const {
  for (const Expected& expected : expected_) {
    const Result<std::vector<at::Tensor>> outputs = RunGraph(module, code, CopiesOn(device_, expected.plan->sample));
    if (!outputs) return Refuse(c10::str(step, " failed: ", outputs.error().message()));
    Status status = CheckOutputs(*expected.plan, *outputs);
    if (status.ok()) {
      const auto difference = CompareOutputs(*expected.plan, expected.outputs, *outputs, tolerance());
      if (!difference) status = difference.error();
    }
    if (!status.ok()) return Refuse(c10::str(step, " changed the model: ", status.message()));
  }
  return Status::Ok();
}

Status TorchScriptProgram::Refuse(std::string_view what) const {
  return {StatusCode::kInvalidArgument, c10::str("model \"", name(), "\" (", spec().file.string(), "): ", what)};
}

}  // namespace abacus
