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

// A job's inputs at bucket shape, in host memory; not of a synthetic job. Where one query fills a tensor, and lies
// where LibTorch would align it, it is a view of the query's memory, else a tensor of its own with the rows of the
// queries and padding.
std::vector<at::Tensor> InputTensors(const ModelSpec& spec, const BucketPlan& plan, JobTensors job);

// The tensors of what forward() returned: a tensor, or a tuple or list of tensors. Error: anything else, named.
Result<std::vector<at::Tensor>> FlattenOutputs(const c10::IValue& returned);

// Error unless the tensors have the plan's number, dtypes and shapes.
Status CheckOutputs(const BucketPlan& plan, std::span<const at::Tensor> outputs);

// Copies tensors of the plan's shapes, in host memory, to the memory of a job's queries, without what is padding.
void WriteOutputs(const ModelSpec& spec, const BucketPlan& plan, std::span<const at::Tensor> outputs, JobTensors job);

// Independent copies on `device`, so that a model that writes to its inputs leaves the originals alone.
std::vector<at::Tensor> CopiesOn(at::Device device, std::span<const at::Tensor> tensors);

bool AllFinite(const at::Tensor& tensor);
// Whether two tensors of one dtype and shape hold the same bits.
bool SameBits(const at::Tensor& a, const at::Tensor& b);

// How far `actual` lies from `expected`, of one dtype and shape: max|a - b| / max|b| over what is finite in `expected`;
// 0 for integers. Error: above `tolerance`; an integer or bool that is not equal; NaN or an infinity that `expected`
// has and `actual` has not, or the other way round. The message begins with `where`.
Result<double> CompareOutput(const std::string& where, const at::Tensor& expected, const at::Tensor& actual,
                             double tolerance);
// The same of all outputs, shaped as the plan says: the largest. The message names the output.
Result<double> CompareOutputs(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                              const std::vector<at::Tensor>& actual, double tolerance);

// The same for a query that holds NaN (`nan`) or an infinity. Where `expected` is no number, `actual` must be none; NaN
// for NaN where the query holds NaN, while of an infinity the order of a sum makes either. What is finite in both must
// agree; NaN in more places is none: a convolution that computes whole tiles spreads it. Integers, which may count such
// places or name the first, are not compared.
Result<double> CompareSpecial(const std::string& where, const at::Tensor& expected, const at::Tensor& actual, bool nan,
                              double tolerance);

// Of all outputs.
Result<double> CompareSpecials(const BucketPlan& plan, const std::vector<at::Tensor>& expected,
                               const std::vector<at::Tensor>& actual, bool nan, double tolerance);

// What a LibTorch exception says, at most about 300 bytes of it, without the C++ stack; in front, where there is one,
// the line of the model's source that failed.
std::string ErrorText(const std::exception& error);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_TORCH_TENSORS_H_
