// Jobs of several queries and of queries that do not fill their bucket: what every TorchRuntime must do with them.
#ifndef ABACUS_TESTS_WORKER_TORCH_SEVERAL_QUERIES_H_
#define ABACUS_TESTS_WORKER_TORCH_SEVERAL_QUERIES_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "models/model_spec.h"
#include "tests/worker/torch/test_models.h"
#include "worker/torch/torch_runtime.h"

namespace abacus::test {

// Queries of different rows and lengths in one bucket, cut and uncut, get bit for bit what each gets alone. The model
// is MakeRowwise's.
void ExpectOutputsOfEachAlone(TorchRuntime& runtime, const ModelSpec& spec);

// What no query fills is the declared padding, whatever ran before. The model is MakeWholeBatch's.
void ExpectNothingButPadding(TorchRuntime& runtime, const ModelSpec& spec);

// Memory that a runtime can pin, as the arena of a server. It outlives the runtime.
class Arena {
 public:
  explicit Arena(size_t bytes) : bytes_(bytes), memory_(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))) {}
  std::span<std::byte> bytes() const { return {memory_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  const size_t bytes_;
  const std::unique_ptr<std::byte, Free> memory_;
};

// A job of random queries, and parts of queries, of random rows and lengths, in blocks of their own with gaps between
// them. Whatever of the arena is not theirs is poisoned: all else, and the rows of their queries that belong to other
// parts. Some hold NaN.
class RandomJob {
 public:
  // Takes all of `arena`, which is to outlive it.
  RandomJob(const ModelSpec& spec, uint32_t bucket, std::span<std::byte> arena, uint64_t seed);
  RandomJob(const RandomJob&) = delete;
  RandomJob& operator=(const RandomJob&) = delete;

  JobTensors tensors() const { return queries_; }
  // Runs each query alone, in memory of its own; what it answers is what the job shall answer.
  void RunEachAlone(TorchRuntime& runtime);
  // The job wrote to the arena what each query answered alone, and nothing else.
  void ExpectOnlyItsOutputs() const;

 private:
  struct Part {
    std::unique_ptr<Job> alone;
    bool has_nan = false;
    std::vector<const std::byte*> inputs;
    std::vector<std::byte*> outputs;
  };

  const uint32_t bucket_;
  const std::span<std::byte> arena_;
  std::vector<std::byte> before_;  // all of the arena
  std::vector<Part> parts_;
  std::vector<QueryTensors> queries_;
};

// Random jobs in every bucket, cut and uncut, answer bit for bit as each of their queries alone, whatever ran before,
// and write nothing else. The model is MakeMixedRows's; the arena is 4 MiB.
void ExpectRandomJobsToAnswerAsEachAlone(TorchRuntime& runtime, const ModelSpec& spec, std::span<std::byte> arena);
// Leaves NaN and other values that no query holds in all memory that jobs of this bucket pass through.
void PoisonBucket(TorchRuntime& runtime, const ModelSpec& spec, uint32_t bucket);

}  // namespace abacus::test

#endif  // ABACUS_TESTS_WORKER_TORCH_SEVERAL_QUERIES_H_
