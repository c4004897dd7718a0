// SyntheticJob: queries that fill a bucket with its sample inputs, each in a block of its own of page-locked memory, as
// the queries of a server lie in the arena. What is measured with them takes as long as serving does.
//
// Thread rule: one thread. Ownership: owns the memory; queries() points into it. Errors: the constructor throws what
// LibTorch throws.
#ifndef ABACUS_WORKER_CUDA_SYNTHETIC_JOB_H_
#define ABACUS_WORKER_CUDA_SYNTHETIC_JOB_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "models/model_spec.h"
#include "worker/runtime/model_runtime.h"
#include "worker/torch/bucket_plan.h"

namespace abacus {

class SyntheticJob {
 public:
  // A copy's queries would point into the original.
  SyntheticJob(const SyntheticJob&) = delete;
  SyntheticJob& operator=(const SyntheticJob&) = delete;
  SyntheticJob(SyntheticJob&&) = default;
  SyntheticJob& operator=(SyntheticJob&&) = default;

  // One query that fills the bucket.
  static SyntheticJob OfOneQuery(const ModelSpec& spec, const BucketPlan& plan) {
    return {spec, plan, {plan.bucket.batch}};
  }
  // As many queries as can fill it, of one row each as far as a job may have that many: the most copies.
  static SyntheticJob OfManyQueries(const ModelSpec& spec, const BucketPlan& plan);

  JobTensors queries() const { return queries_; }

 private:
  SyntheticJob(const ModelSpec& spec, const BucketPlan& plan, const std::vector<int64_t>& query_rows);

  at::Tensor memory_;
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
  std::vector<QueryTensors> queries_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_SYNTHETIC_JOB_H_
