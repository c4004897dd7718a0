// Opens the shared libraries that register a model's operators with LibTorch: those that its description names, and
// torchvision's, which lies beside LibTorch where it is installed.
//
// Libraries built for Python name libtorch_python.so among what they need, and the operators among them use nothing of
// it. A worker has no Python: libabacus_no_python.so, empty and under that name, stands in for it. What a library of
// that kind needs of LibTorch's CUDA half is opened with it, on the CPU too.
//
// Thread rule: call before the model is loaded, from the thread that loads it. What is opened stays open until the
// process exits. Errors: NOT_FOUND where a file is missing, INVALID_ARGUMENT where it is another one than the
// description says or does not load, with what to do.
#ifndef ABACUS_WORKER_TORCH_OPERATOR_LIBRARIES_H_
#define ABACUS_WORKER_TORCH_OPERATOR_LIBRARIES_H_

#include <string_view>

#include "base/status.h"
#include "models/model_spec.h"

namespace abacus {

// Checks the digests of spec.libraries and opens them.
Status OpenOperatorLibraries(const ModelSpec& spec);

Status OpenTorchvision();

// The operator that LibTorch's error says it does not know, such as "torchvision::nms"; empty for other errors.
std::string_view UnknownOperator(std::string_view error);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_OPERATOR_LIBRARIES_H_
