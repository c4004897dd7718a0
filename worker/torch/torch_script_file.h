// Opens a TorchScript file: the module as exported, with what of its interface can be checked without running it.
//
// Thread rule: pure function. Errors: NOT_FOUND or INVALID_ARGUMENT, with the model's name and what to do.
#ifndef ABACUS_WORKER_TORCH_TORCH_SCRIPT_FILE_H_
#define ABACUS_WORKER_TORCH_TORCH_SCRIPT_FILE_H_

#include <torch/csrc/jit/api/module.h>

#include "base/status.h"
#include "models/model_spec.h"

namespace abacus {

// The module of spec.open_path, in evaluation mode, on `device`; libraries of operators are opened before. Refused: a
// file that was written to meanwhile; a forward() whose arguments are not the tensors that the spec declares.
Result<torch::jit::Module> LoadTorchScript(const ModelSpec& spec, at::Device device);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TORCH_SCRIPT_FILE_H_
