// LoadCheck: what the module as exported makes of some inputs, to hold a transformed graph against.
//
// The smallest bucket is tried at every scale of its inputs, the largest at the first. At a scale other than the first
// an output that the module itself cannot give (it raises, or the numbers overflow) says nothing and is left out. Where
// a float input has no declared range, NaN and infinities may come in queries: one element of each input is NaN, then
// infinite, and what the module makes NaN (not finite) must be NaN (not finite) in the transformed graph, too.
//
// Thread rule: one thread. Ownership: keeps its inputs and the module's outputs. Errors: INVALID_ARGUMENT without the
// model's name.
#ifndef ABACUS_WORKER_TORCH_LOAD_CHECK_H_
#define ABACUS_WORKER_TORCH_LOAD_CHECK_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/torch/bucket_plan.h"

namespace abacus {

// Runs some form of a model on inputs in host memory, which it leaves alone.
using RunFn = std::function<Result<std::vector<at::Tensor>>(const std::vector<at::Tensor>& inputs)>;

class LoadCheck {
 public:
  // `spec` and `plans` (of its buckets) outlive the check.
  LoadCheck(const ModelSpec& spec, const std::vector<BucketPlan>& plans) : spec_(spec), plans_(plans) {}

  // Runs the module as exported and keeps its outputs, after checking them against the plans. `usual_only`: the first
  // scale alone, without NaN and infinities. `warn` is told of outputs that are not finite.
  Status Record(const RunFn& plain, bool usual_only, const std::function<void(std::string_view)>& warn);

  // Error: what `run` gives differs from what was recorded.
  Status Compare(const RunFn& run) const;

 private:
  enum class Kind { kNumbers, kNan, kInfinity };
  struct Case {
    const BucketPlan* plan;
    Kind kind;
    std::string label;  // "batch 4, sequence 32, inputs from N(0, 1)"
    std::vector<at::Tensor> inputs;
    std::vector<at::Tensor> outputs;  // undefined: left out
  };

  void RecordScale(const RunFn& plain, SampleScale scale);
  void RecordSpecial(const RunFn& plain, Kind kind);
  Status CompareCase(const Case& recorded, const RunFn& run) const;

  const ModelSpec& spec_;
  const std::vector<BucketPlan>& plans_;
  std::vector<Case> cases_;
};

// The same inputs, in which every float input without a declared range has `value` as its middle element; empty where
// there is no such input.
std::vector<at::Tensor> WithSpecialValue(const ModelSpec& spec, const std::vector<at::Tensor>& inputs, double value);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_LOAD_CHECK_H_
