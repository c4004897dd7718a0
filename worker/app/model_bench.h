// ModelBench: a model loaded as serving loads it, and memory to run it with. What `verify`, `check` and `bench` run.
//
// Before each run the output memory is overwritten, so that a run which skips an output shows.
//
// Thread rule: one thread; loads the model in it. Ownership: keeps runtime and memory; the tensors of outputs() are
// views, valid until the next SetQuery and changed by the next Run. Errors: those of loading and of the runtime.
#ifndef ABACUS_WORKER_APP_MODEL_BENCH_H_
#define ABACUS_WORKER_APP_MODEL_BENCH_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "models/tensor_layout.h"
#include "worker/app/runtime_factory.h"
#include "worker/torch/bucket_plan.h"
#include "worker/torch/model_program.h"
#include "worker/torch/torch_runtime.h"

namespace abacus {

// Error, unless these are batch sizes of the model; what `--batch` gives.
Status CheckBatches(const ModelSpec& spec, const std::vector<int64_t>& batches);

// The size of the block that a server's arena has for a query.
uint64_t BlockBytes(const ModelSpec& spec, int64_t rows, int64_t sequence);

class ModelBench {
 public:
  static Result<std::unique_ptr<ModelBench>> Load(const ModelSpec& spec, const RuntimeOptions& options);
  // With a runtime that was loaded elsewhere.
  static Result<std::unique_ptr<ModelBench>> Adopt(const ModelSpec& spec, std::unique_ptr<TorchRuntime> runtime,
                                                   const std::string& digest);

  const ModelSpec& spec() const { return spec_; }
  // Of the model's files, as the controller takes it.
  const std::string& digest() const { return digest_; }
  TorchRuntime& runtime() { return *runtime_; }
  ModelProgram& program() { return runtime_->program(); }
  const BucketRanges& ranges(uint32_t bucket) const { return runtime_->ranges(bucket); }

  // The query of the runs that follow: inputs in host memory, of this shape.
  void SetQuery(const Bucket& shape, const std::vector<at::Tensor>& inputs);
  // Runs it in a bucket, [chain[0], chain[1]), [chain[1], chain[2]), ...; uncut where the chain is empty.
  Status Run(uint32_t bucket, std::span<const uint32_t> chain);
  // Runs the bucket's stored sample uncut, so that nothing of the last query is left behind.
  Status RunOther(uint32_t bucket) { return runtime_->RunUncut(bucket, {}); }
  // The query's shape in LibTorch's terms.
  const BucketPlan& plan() const { return plan_; }
  // What the last run answered, at the query's shape.
  std::vector<at::Tensor> outputs() const;

  // All the memory, for jobs of the caller's own; SetQuery uses its beginning. Large enough for a query that fills any
  // of the buckets, and behind it for two jobs of as many queries as can fill it, each in a block of BlockBytes().
  std::span<std::byte> arena() const { return {arena_.get(), arena_bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  ModelBench(const ModelSpec& spec, std::unique_ptr<TorchRuntime> runtime, const std::string& digest)
      : spec_(spec), digest_(digest), runtime_(std::move(runtime)) {}
  Status AllocateArena();

  const ModelSpec spec_;
  const std::string digest_;
  uint64_t arena_bytes_ = 0;
  std::unique_ptr<std::byte, Free> arena_;  // outlives the runtime, which may have pinned it
  std::unique_ptr<TorchRuntime> runtime_;
  BucketPlan plan_;
  TensorLayout layout_;  // of the query, as in the arena of a server
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_MODEL_BENCH_H_
