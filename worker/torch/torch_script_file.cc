#include "worker/torch/torch_script_file.h"

#include <c10/util/StringUtil.h>
#include <sys/stat.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "worker/torch/operator_libraries.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

Status Refuse(const ModelSpec& spec, const std::string& what, StatusCode code = StatusCode::kInvalidArgument) {
  return {code, c10::str("model \"", spec.name, "\" (", spec.file.string(), "): ", what)};
}

// Whether the file was written to between two looks. A name that was taken from it (a new file renamed into its place)
// changes its ctime, too, but not what it holds.
bool WasWritten(const struct stat& before, const struct stat& after) {
  const auto differ = [](const timespec& a, const timespec& b) {
    return a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec;
  };
  return before.st_size != after.st_size || differ(before.st_mtim, after.st_mtim) ||
         (differ(before.st_ctim, after.st_ctim) && before.st_nlink == after.st_nlink);
}

bool TakesATensor(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) return true;
  const auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::TensorType;
}

// forward()'s arguments but self: "x: Tensor, scale: float = 2.".
std::string ArgumentsText(const std::vector<c10::Argument>& arguments) {
  std::vector<std::string> texts;
  for (const c10::Argument& argument : arguments) {
    texts.push_back(c10::str(argument.name(), ": ", argument.type()->annotation_str()));
    if (argument.default_value()) texts.back() += c10::str(" = ", *argument.default_value());
  }
  return c10::Join(", ", texts);
}

// Error unless forward() takes one tensor for every input, in the spec's order.
Status CheckArguments(const ModelSpec& spec, const torch::jit::Method& forward) {
  std::vector<c10::Argument> arguments = forward.function().getSchema().arguments();
  arguments.erase(arguments.begin());  // self
  std::vector<std::string> names;
  std::vector<std::string> inputs;
  for (const c10::Argument& argument : arguments) {
    names.push_back(argument.name());
    if (TakesATensor(argument.type())) continue;
    return Refuse(spec, c10::str("argument \"", argument.name(), "\" of forward() is of type ",
                                 argument.type()->annotation_str(), " (forward(", ArgumentsText(arguments),
                                 ")); inputs are tensors: wrap the module in one whose forward() sets the others"));
  }
  for (const TensorSpec& input : spec.inputs) inputs.push_back(input.name);
  if (names.size() != inputs.size()) {
    return Refuse(spec, c10::str("forward() takes ", names.size(), " inputs (", ArgumentsText(arguments), "), ",
                                 spec.toml_path.string(), " declares ", inputs.size(), " (", c10::Join(", ", inputs),
                                 "); every argument is an input of every query, optional ones too: declare it, or wrap "
                                 "the module in one that sets it"));
  }
  if (names != inputs && std::ranges::is_permutation(names, inputs)) {
    return Refuse(spec,
                  c10::str("forward() takes ", c10::Join(", ", names), " in this order, ", spec.toml_path.string(),
                           " declares ", c10::Join(", ", inputs), "; declare the inputs in forward()'s order"));
  }
  return Status::Ok();
}

torch::jit::Module LoadModule(const std::string& path, at::Device device) {
  // Not loaded onto a GPU directly: that would move the graph's constants too, and a number that a shape is computed
  // with (on the CPU) would be copied back from the GPU in every run, which no CUDA graph can capture.
  const std::optional<c10::Device> onto = device.is_cuda() ? std::nullopt : std::optional(device);
  torch::jit::Module module = torch::jit::load(path, onto);
  module.to(device);
  module.eval();
  return module;
}

// With torchvision's operators where the file asks for them.
Result<torch::jit::Module> LoadWithOperators(const ModelSpec& spec, const std::string& path, at::Device device,
                                             bool torchvision_is_open = false) {
  std::string unknown;
  try {
    return LoadModule(path, device);
  } catch (const std::exception& error) {
    unknown = UnknownOperator(error.what());
    if (unknown.empty()) return Error(Refuse(spec, "not a usable TorchScript file: " + ErrorText(error)));
  }
  if (torchvision_is_open || !unknown.starts_with("torchvision::")) {
    return Error(
        Refuse(spec, c10::str("it uses ", unknown,
                              ", which LibTorch does not have; export the model with --library LIBRARY.so, the "
                              "library that registers it")));
  }
  if (const Status opened = OpenTorchvision(); !opened.ok()) {
    return Error(Refuse(spec, c10::str("it uses ", unknown, ": ", opened.message()), opened.code()));
  }
  return LoadWithOperators(spec, path, device, /*torchvision_is_open=*/true);
}

}  // namespace

Result<torch::jit::Module> LoadTorchScript(const ModelSpec& spec, at::Device device) {
  const std::filesystem::path path = spec.open_path.empty() ? spec.file : spec.open_path;
  struct stat before {};
  struct stat after {};
  if (stat(path.c_str(), &before) != 0 || !S_ISREG(before.st_mode)) {
    return Error(Refuse(spec, "no such file; export the model or correct `file` in " + spec.toml_path.string(),
                        StatusCode::kNotFound));
  }
  ABACUS_RETURN_IF_ERROR(OpenOperatorLibraries(spec));
  Result<torch::jit::Module> module = LoadWithOperators(spec, path.string(), device);
  if (stat(path.c_str(), &after) != 0 || WasWritten(before, after)) {
    return Error(Refuse(spec,
                        "the file was written to while it was loaded; replace files by renaming, as the exporter does, "
                        "and restart what serves them"));
  }
  if (!module) return module;
  const std::optional<torch::jit::Method> forward = module->find_method("forward");
  if (!forward) return Error(Refuse(spec, "the module has no forward()"));
  ABACUS_RETURN_IF_ERROR(CheckArguments(spec, *forward));
  return module;
}

}  // namespace abacus
