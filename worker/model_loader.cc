#include "worker/model_loader.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/serialization/import.h>

#include <exception>

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
                                         at::Device device, const std::vector<at::Tensor>& inputs) {
  const c10::InferenceMode inference;
  torch::jit::Stack stack = {module._ivalue()};
  for (at::Tensor& input : CopiesOn(device, inputs)) stack.emplace_back(std::move(input));
  torch::jit::InterpreterState(code).run(stack);
  return FlattenOutputs(stack.at(0));
}

// Loading in progress: what every step needs.
class Loader {
 public:
  Loader(const ModelSpec& spec, at::Device device, const ProgressFn& progress)
      : spec_(spec), device_(device), progress_(progress) {}

  Result<LoadedModel> Load() {
    LoadedModel model;
    model.name = spec_.name;
    model.tolerance = spec_.tolerance;
    for (size_t b = 0; b < spec_.bucket_count(); ++b) model.buckets.push_back(PlanBucket(spec_, b));
    Progress("load");
    Result<torch::jit::Module> plain = LoadPlainModule(spec_, device_);
    if (!plain) return Error(plain.error());
    ABACUS_RETURN_IF_ERROR(RunPlainSamples(*plain, model.buckets));

    Progress("freeze");
    ABACUS_RETURN_IF_ERROR(Attempt("freezing the module", &model, [&] {
      // Without "training" the file holds a module that was frozen when it was exported.
      return plain->hasattr("training") ? torch::jit::freeze(*plain) : *plain;
    }));
    Progress("optimise");
    torch::jit::Module frozen = model.module;
    const Status optimised =
        Attempt("optimize_for_inference", &model, [&] { return torch::jit::optimize_for_inference(frozen); });
    if (!optimised.ok()) {
      Progress(c10::str("warning: serving the frozen module without optimize_for_inference: ", optimised.message()));
    }
    return model;
  }

 private:
  struct Expected {
    const BucketPlan* plan;
    std::vector<at::Tensor> outputs;
  };

  void Progress(std::string_view stage) const {
    if (progress_) progress_(stage);
  }
  Status Refuse(std::string_view what) const {
    return {StatusCode::kInvalidArgument, c10::str("model \"", spec_.name, "\" (", spec_.file.string(), "): ", what)};
  }

  // Outputs of the plain module for the smallest and the largest bucket, checked against the TOML.
  Status RunPlainSamples(torch::jit::Module& plain, const std::vector<BucketPlan>& buckets) {
    std::vector<const BucketPlan*> plans = {&buckets.front()};
    if (buckets.size() > 1) plans.push_back(&buckets.back());
    for (const BucketPlan* plan : plans) {
      Result<std::vector<at::Tensor>> outputs = RunPlain(plain, device_, plan->sample);
      if (!outputs) return Refuse(c10::str("at ", plan->label, ": ", outputs.error().message()));
      if (Status status = CheckOutputs(*plan, *outputs); !status.ok()) return Refuse(status.message());
      for (size_t i = 0; i < outputs->size(); ++i) {
        if (!at::isfinite((*outputs)[i]).all().item<bool>()) {
          Progress(c10::str("warning: output \"", plan->outputs[i].name, "\" of the plain module is not finite at ",
                            plan->label));
        }
      }
      expected_.push_back({plan, std::move(*outputs)});
    }
    return Status::Ok();
  }

  // Applies one transformation; stores its module and graph in `model` only when they pass the check.
  Status Attempt(std::string_view step, LoadedModel* model, const std::function<torch::jit::Module()>& transform) {
    try {
      torch::jit::Module module = transform();
      std::shared_ptr<torch::jit::Graph> graph = ServingGraph(module);
      if (Status status = CheckStateless(graph); !status.ok()) return Refuse(status.message());
      const torch::jit::Code code(graph, "forward");
      for (const Expected& expected : expected_) {
        Result<std::vector<at::Tensor>> outputs = RunGraph(module, code, device_, expected.plan->sample);
        if (!outputs) return Refuse(c10::str(step, ": ", outputs.error().message()));
        Status status = CheckOutputs(*expected.plan, *outputs);
        if (status.ok()) {
          const auto difference = CompareOutputs(*expected.plan, expected.outputs, *outputs, spec_.tolerance);
          if (!difference) status = difference.error();
        }
        if (!status.ok()) return Refuse(c10::str(step, " changed the model: ", status.message()));
      }
      model->module = std::move(module);
      model->graph = std::move(graph);
      return Status::Ok();
    } catch (const std::exception& error) {
      return Refuse(c10::str(step, " failed: ", ErrorText(error)));
    }
  }

  const ModelSpec& spec_;
  const at::Device device_;
  const ProgressFn& progress_;
  std::vector<Expected> expected_;
};

}  // namespace

Result<LoadedModel> LoadModel(const ModelSpec& spec, at::Device device, const ProgressFn& progress) {
  return Loader(spec, device, progress).Load();
}

Result<torch::jit::Module> LoadPlainModule(const ModelSpec& spec, at::Device device) {
  const std::string context = c10::str("model \"", spec.name, "\" (", spec.file.string(), "): ");
  std::error_code error_code;
  if (!std::filesystem::is_regular_file(spec.file, error_code)) {
    return Error(StatusCode::kNotFound,
                 context + "no such file; export the model or correct `file` in " + spec.toml_path.string());
  }
  try {
    // Not loaded onto a GPU directly: that would move the graph's constants too, and a number that a shape is computed
    // with (on the CPU) would be copied back from the GPU in every run, which no CUDA graph can capture.
    const std::optional<c10::Device> onto = device.is_cuda() ? std::nullopt : std::optional(device);
    torch::jit::Module module = torch::jit::load(spec.file.string(), onto);
    module.to(device);
    module.eval();
    const std::optional<torch::jit::Method> forward = module.find_method("forward");
    if (!forward) return Error(StatusCode::kInvalidArgument, context + "the module has no forward()");
    const size_t arguments = forward->num_inputs() - 1;  // without self
    if (arguments != spec.inputs.size()) {
      return Error(StatusCode::kInvalidArgument, c10::str(context, "forward() takes ", arguments, " inputs, ",
                                                          spec.toml_path.string(), " declares ", spec.inputs.size()));
    }
    return module;
  } catch (const std::exception& error) {
    return Error(StatusCode::kInvalidArgument, context + "not a usable TorchScript file: " + ErrorText(error));
  }
}

Result<std::vector<at::Tensor>> RunPlain(torch::jit::Module& module, at::Device device,
                                         const std::vector<at::Tensor>& inputs) {
  try {
    const c10::InferenceMode inference;
    const torch::jit::GraphOptimizerEnabledGuard plain_execution(false);
    std::vector<c10::IValue> arguments;
    for (at::Tensor& input : CopiesOn(device, inputs)) arguments.emplace_back(std::move(input));
    return FlattenOutputs(module.forward(std::move(arguments)));
  } catch (const std::exception& error) {
    return Error(StatusCode::kInvalidArgument, "forward() failed: " + ErrorText(error));
  }
}

}  // namespace abacus
