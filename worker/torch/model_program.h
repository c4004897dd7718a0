// ModelProgram: a loaded model in whatever form LibTorch runs it. What captures, cuts, checks and serves a model knows
// this interface alone.
//
// Forward runs the model the way it serves: on tensors that lie on the program's device and have a bucket's shapes,
// always through the same operators, so that a run can be captured in a CUDA graph and captured runs repeat it.
// Reference is what Forward is measured against: the model as it was exported, without optimisation.
//
// Thread rule: one thread. Ownership: the program owns the weights and its copy of the spec; outputs belong to the
// caller. Errors: a Status with the reason; no exception leaves these functions. What names the model is the caller's.
#ifndef ABACUS_WORKER_TORCH_MODEL_PROGRAM_H_
#define ABACUS_WORKER_TORCH_MODEL_PROGRAM_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/torch/bucket_plan.h"

namespace abacus {

// Called with what is being done and with warnings; may be empty.
using ProgressFn = std::function<void(std::string_view)>;

class ModelProgram {
 public:
  virtual ~ModelProgram() = default;
  ModelProgram(const ModelProgram&) = delete;
  ModelProgram& operator=(const ModelProgram&) = delete;

  const ModelSpec& spec() const { return spec_; }
  const std::string& name() const { return spec_.name; }
  double tolerance() const { return spec_.tolerance; }
  const std::vector<BucketPlan>& buckets() const { return buckets_; }

  // Whether other inputs than those of the first scale may do harm: a loop that never ends, an index that fails on the
  // GPU.
  virtual bool usual_inputs_only() const { return false; }

  // Inputs lie on the device; the model may write to them. Outputs as the model returns them: for the caller to check
  // against the plan, and not necessarily contiguous. Without LibTorch's gradients.
  virtual Result<std::vector<at::Tensor>> Forward(uint32_t bucket, const std::vector<at::Tensor>& inputs) = 0;

  // Inputs lie in host memory and are left alone; outputs stay on the device. Not for serving: the first call may load
  // the exported model a second time.
  virtual Result<std::vector<at::Tensor>> Reference(uint32_t bucket, const std::vector<at::Tensor>& inputs) = 0;

  // As ModelRuntime::structure.
  virtual const std::string& structure() const = 0;

 protected:
  explicit ModelProgram(const ModelSpec& spec) : spec_(spec) {
    for (size_t b = 0; b < spec_.bucket_count(); ++b) buckets_.push_back(PlanBucket(spec_, b));
  }

 private:
  const ModelSpec spec_;
  std::vector<BucketPlan> buckets_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_MODEL_PROGRAM_H_
