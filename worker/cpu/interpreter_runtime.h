// InterpreterRuntime: TorchScript on the CPU, range by range (see graph_partition.h for how a graph is cut).
//
// An input that one query fills is read where it lies; the rows of several queries, or of one that is padded, are
// gathered first, and a model that writes to an input gets a copy. Outputs are copied out by the last range. The
// operators of all buckets are the same; cut points are chosen per bucket from measured operator times: the minimum of
// up to kProfilePasses passes, operator by operator. A bucket with at most kMaxCuts operators is cut at all of them, so
// its cuts never depend on the timing; on a busy machine those of a longer model may move by an operator or two from
// one start to the next.
//
// The slices of a binary tree over the intervals between cuts (see slice_tree.h) are compiled at load, once for all
// buckets that have them; a range runs as a chain of them. Nothing is compiled while queries are served.
//
// What an earlier process measured is taken over, and without measuring every bucket is one whole (LoadHooks).
//
// Thread rule, ownership and errors: as ModelRuntime; Create also INVALID_ARGUMENT for a bucket that does not run. An
// exception of the model (an index out of range, say) becomes WORKER_FAILED and ends the job; the runtime stays usable,
// IsFatal() is never true.
#ifndef ABACUS_WORKER_CPU_INTERPRETER_RUNTIME_H_
#define ABACUS_WORKER_CPU_INTERPRETER_RUNTIME_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/cpu/graph_partition.h"
#include "worker/cuts/slice_tree.h"
#include "worker/runtime/job_progress.h"
#include "worker/torch/torch_runtime.h"
#include "worker/torch/torch_script_program.h"

namespace abacus {

class InterpreterRuntime : public TorchRuntime {
 public:
  // Prepares every bucket, and measures it as `hooks` says.
  static Result<std::unique_ptr<TorchRuntime>> Create(std::unique_ptr<TorchScriptProgram> program,
                                                      const LoadHooks& hooks);

  const BucketRanges& ranges(uint32_t bucket) const override { return ranges_[bucket]; }
  std::string device_name() const override;
  std::string libraries() const override;
  std::string structure() const override { return program_->structure(); }
  Status Start(const RangeRequest& range) override;
  ModelProgram& program() override { return *program_; }
  Status RunUncut(uint32_t bucket, const JobTensors& tensors) override;

 private:
  explicit InterpreterRuntime(std::unique_ptr<TorchScriptProgram> program);

  // Runs every bucket, and measures those of which nothing is known.
  Status Prepare(const LoadHooks& hooks);
  Status Measure(uint32_t bucket, const std::vector<RangeCode>& single_operators);
  // Runs the slices that [first, last) is made of; copies a job's inputs in and its outputs out at the ends.
  Status RunSlices(const RangeRequest& range, const std::vector<uint32_t>& chain);
  std::vector<at::Tensor> Inputs(uint32_t bucket, const JobTensors& tensors) const;
  Slots StartSlots(uint32_t bucket, const JobTensors& tensors) const;
  Status Finish(uint32_t bucket, const std::vector<at::Tensor>& outputs, const JobTensors& tensors) const;
  void CompileSlices(uint32_t bucket);
  std::string RangeText(uint32_t bucket, uint32_t first, uint32_t last) const;

  const std::unique_ptr<TorchScriptProgram> program_;
  const GraphPartition partition_;
  std::vector<BucketRanges> ranges_;
  std::vector<SliceTree> trees_;                                 // by bucket
  std::map<std::pair<uint32_t, uint32_t>, RangeCode> compiled_;  // every slice of every tree, by first and last
  Slots slots_;                                                  // of the job in progress
  JobProgress progress_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CPU_INTERPRETER_RUNTIME_H_
