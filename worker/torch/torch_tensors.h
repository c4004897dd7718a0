// Tensors between a job's memory and LibTorch: inputs viewed, outputs checked, compared and written;
// and the text of LibTorch's errors.
//
// Thread rule: no shared state. Ownership: tensors made by InputTensors may borrow the caller's memory. Errors: a
// Status that names the tensor.
#ifndef ABACUS_WORKER_TORCH_TORCH_TENSORS_H_
#define ABACUS_WORKER_TORCH_TORCH_TENSORS_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <exception>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/runtime/model_runtime.h"
#include "worker/torch/bucket_plan.h"

namespace abacus {

// A job's inputs at bucket shape, in host memory; not of a synthetic job. Where one query fills a tensor it is a view
// of the query's memory, else a tensor of its own with the rows of the queries and padding.
std::vector<at::Tensor> InputTensors(const ModelSpec& spec, const BucketPlan& plan, JobTensors job);

// The tensors of what forward() returned: a tensor, or a tuple or list of tensors. Error: anything else.
Result<std::vector<at::Tensor>> FlattenOutputs(const c10::IValue& returned);

// Error unless the tensors have the plan's number, dtypes and shapes.
Status CheckOutputs(const BucketPlan& plan, std::span<const at::Tensor> outputs);

// Copies tensors of the plan's shapes, in host memory, to the memory of a job's queries, without what is padding.
void WriteOutputs(const ModelSpec& spec, const BucketPlan& plan, std::span<const at::Tensor> outputs, JobTensors job);

// How far `actual` lies from `expected`, both shaped as the plan says: the largest max|a - b| / max|b| of the outputs.
// Error: above `tolerance`, or not finite where `expected` is; the message names the output.
Result<double> CompareOutputs(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                              const std::vector<at::Tensor>& actual, double tolerance);

// What a LibTorch exception says, without the C++ stack and at most about 300 bytes long.
std::string ErrorText(const std::exception& error);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TORCH_TENSORS_H_
