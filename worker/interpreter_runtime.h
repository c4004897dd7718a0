// InterpreterRuntime: TorchScript on the CPU, range by range (see graph_partition.h for how a graph is cut).
//
// Inputs are read where they lie; only a model that writes to an input gets a copy. Outputs are copied out by the
// last range. The operators of all buckets are the same; cut points are chosen per bucket from measured operator
// times: the minimum of up to kProfilePasses passes, operator by operator. A bucket with at most kMaxCuts operators is
// cut at all of them, so its cuts never depend on the timing; on a busy machine those of a longer model may move by
// an operator or two from one start to the next.
//
// The whole pass is compiled at load. Any other range is compiled when first run (0.1 to 2 ms, by its length) and kept
// in a bounded cache, so that a range costs the same however many intervals it spans.
//
// Thread rule, ownership and errors: as ModelRuntime. An exception of the model (an index out of range, say) becomes
// WORKER_FAILED and ends the job; the runtime stays usable, IsFatal() is never true.
#ifndef ABACUS_WORKER_INTERPRETER_RUNTIME_H_
#define ABACUS_WORKER_INTERPRETER_RUNTIME_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "worker/graph_partition.h"
#include "worker/lru_cache.h"
#include "worker/model_loader.h"
#include "worker/torch_runtime.h"

namespace abacus {

class InterpreterRuntime : public TorchRuntime {
 public:
  // Prepares and measures every bucket. `range_cache`: compiled ranges kept.
  static Result<std::unique_ptr<TorchRuntime>> Create(LoadedModel model, size_t range_cache,
                                                      const ProgressFn& progress);

  const BucketRanges& ranges(uint32_t bucket) const override { return ranges_[bucket]; }
  Status Run(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) override;
  Status RunUncut(uint32_t bucket, const JobTensors& tensors) override;

 private:
  InterpreterRuntime(LoadedModel model, size_t range_cache);

  Status Measure(uint32_t bucket, const std::vector<RangeCode>& single_operators);
  std::vector<c10::IValue> GraphInputs(uint32_t bucket, const JobTensors& tensors) const;
  Status Finish(uint32_t bucket, const c10::IValue& returned, const JobTensors& tensors) const;
  const RangeCode& CodeOf(uint32_t first, uint32_t last);
  std::string RangeText(uint32_t bucket, uint32_t first, uint32_t last) const;

  const LoadedModel model_;
  const GraphPartition partition_;
  const torch::jit::Code uncut_;
  const RangeCode whole_;
  std::vector<BucketRanges> ranges_;
  LruCache<std::pair<uint32_t, uint32_t>, RangeCode> cache_;
  // The job in progress: operators [0, next_) of it have run in job_bucket_. next_ == 0: none.
  Slots slots_;
  uint32_t job_bucket_ = 0;
  uint32_t next_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_INTERPRETER_RUNTIME_H_
