// Tensors between a job's memory and LibTorch: inputs viewed, outputs checked, compared and written;
// and the text of LibTorch's errors.
//
// Thread rule: no shared state. Ownership: tensors made by InputViews borrow the caller's memory. Errors: a Status that
// names the tensor.
#ifndef ABACUS_WORKER_TORCH_TENSORS_H_
#define ABACUS_WORKER_TORCH_TENSORS_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstddef>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "shm/status.h"
#include "worker/bucket_plan.h"

namespace abacus {

// Views of a job's inputs in host memory.
std::vector<at::Tensor> InputViews(const BucketPlan& plan, std::span<const std::byte* const> inputs);

// The tensors of what forward() returned: a tensor, or a tuple or list of tensors. Error: anything else.
Result<std::vector<at::Tensor>> FlattenOutputs(const c10::IValue& returned);

// Error unless the tensors have the plan's number, dtypes and shapes.
Status CheckOutputs(const BucketPlan& plan, std::span<const at::Tensor> outputs);

// Copies tensors of the plan's shapes to the job's memory.
void WriteOutputs(const BucketPlan& plan, std::span<const at::Tensor> outputs, std::span<std::byte* const> targets);

// Error unless `tensors` is empty (a synthetic job) or has one pointer for each input and output.
Status CheckTensorCount(const BucketPlan& plan, size_t inputs, size_t outputs);

// How far `actual` lies from `expected`, both shaped as the plan says: the largest max|a - b| / max|b| of the outputs.
// Error: above `tolerance`, or not finite where `expected` is; the message names the output.
Result<double> CompareOutputs(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                              const std::vector<at::Tensor>& actual, double tolerance);

// What a LibTorch exception says, without the C++ stack and at most about 300 bytes long.
std::string ErrorText(const std::exception& error);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TENSORS_H_
