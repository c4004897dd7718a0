// JobStaging: page-locked host memory that the small rows of jobs pass through (worker/torch/small_rows.h), and the
// queries whose outputs lie in it.
//
// There is a set for each range that can be started at once, chosen by the range's number: what the copies of a range
// that waits at its gate have yet to read is not touched by the next. A range's set is free again once it has been
// polled for. All buckets of a runtime share the memory.
//
// Thread rule: one thread. Ownership: owns its memory; what it keeps of a job are addresses. Errors: WORKER_FAILED with
// the CUDA call, from Create.
#ifndef ABACUS_WORKER_CUDA_JOB_STAGING_H_
#define ABACUS_WORKER_CUDA_JOB_STAGING_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/runtime/model_runtime.h"
#include "worker/torch/model_program.h"

namespace abacus {

class JobStaging {
 public:
  JobStaging() = default;
  // Large enough for every bucket of the model.
  static Result<JobStaging> Create(const ModelProgram& program);

  // `sequence`: the number of the range.
  std::byte* inputs(uint32_t sequence) const { return SetOf(sequence).inputs.get(); }
  std::byte* outputs(uint32_t sequence) const { return SetOf(sequence).outputs.get(); }

  // Keeps the rows, lengths and outputs of a job's queries until the range has ended.
  void KeepQueries(uint32_t sequence, JobTensors job);
  // Without inputs.
  JobTensors queries(uint32_t sequence) const { return SetOf(sequence).queries; }

 private:
  struct Set {
    UniqueCudaHost<std::byte> inputs;
    UniqueCudaHost<std::byte> outputs;
    std::vector<QueryTensors> queries;
    std::vector<std::byte*> addresses;  // of the queries' outputs
  };

  const Set& SetOf(uint32_t sequence) const { return sets_[sequence % sets_.size()]; }

  std::array<Set, ModelRuntime::kMaxStarted> sets_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_JOB_STAGING_H_
