#include "worker/cuda/job_staging.h"

#include <algorithm>
#include <span>

#include "worker/torch/small_rows.h"

namespace abacus {
namespace {

Result<UniqueCudaHost<std::byte>> Allocate(uint64_t bytes) {
  void* memory = nullptr;
  if (bytes > 0) ABACUS_RETURN_IF_CUDA_ERROR(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
  return UniqueCudaHost<std::byte>(static_cast<std::byte*>(memory));
}

}  // namespace

Result<JobStaging> JobStaging::Create(const ModelProgram& program) {
  uint64_t input_bytes = 0, output_bytes = 0;
  for (const BucketPlan& plan : program.buckets()) {
    input_bytes = std::max(input_bytes, SmallRowsOf(program.spec().inputs, plan.bucket).bytes);
    output_bytes = std::max(output_bytes, SmallRowsOf(program.spec().outputs, plan.bucket).bytes);
  }
  JobStaging staging;
  for (Set& set : staging.sets_) {
    Result<UniqueCudaHost<std::byte>> inputs = Allocate(input_bytes);
    if (!inputs) return Error(inputs.error());
    Result<UniqueCudaHost<std::byte>> outputs = Allocate(output_bytes);
    if (!outputs) return Error(outputs.error());
    set.inputs = std::move(*inputs);
    set.outputs = std::move(*outputs);
    set.queries.reserve(kMaxJobQueries);
    set.addresses.reserve(kMaxJobQueries * program.spec().outputs.size());
  }
  return staging;
}

void JobStaging::KeepQueries(uint32_t sequence, JobTensors job) {
  Set& set = sets_[sequence % sets_.size()];
  set.queries.clear();
  set.addresses.clear();
  for (const QueryTensors& query : job) {
    set.addresses.insert(set.addresses.end(), query.outputs.begin(), query.outputs.end());
  }
  std::byte* const* next = set.addresses.data();  // from here on nothing moves
  for (const QueryTensors& query : job) {
    set.queries.push_back({query.rows, query.sequence, {}, {next, query.outputs.size()}});
    next += query.outputs.size();
  }
}

}  // namespace abacus
