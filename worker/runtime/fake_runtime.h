// FakeRuntime: a model that only takes time. For tests and benchmarks of everything around the model, without LibTorch
// or a GPU, through the very same executor, rings and processes.
//
// A pass takes FakeTiming::base_us + per_row_us * batch, spread evenly over the operators; every operator is a cut
// point as far as kMaxCuts allows. Output i of a query is the bytes of its input i, cut or zero-filled to the output's
// size, row by row where they have rows (so that parts give what the whole query would): a test can check payloads end
// to end, query by query. Scripted faults: when the first element of an int64 first input of any query, or part of one,
// equals FakeTiming::die_on_value the process exits at once, fail_on_value gives an error, hang_on_value never returns.
#ifndef ABACUS_WORKER_RUNTIME_FAKE_RUNTIME_H_
#define ABACUS_WORKER_RUNTIME_FAKE_RUNTIME_H_

#include <vector>

#include "worker/runtime/model_runtime.h"

namespace abacus {

class FakeRuntime : public ModelRuntime {
 public:
  explicit FakeRuntime(const ModelSpec& spec);

  const BucketRanges& ranges(uint32_t bucket) const override { return ranges_[bucket]; }
  std::string device_name() const override { return "fake"; }
  std::string libraries() const override { return "fake"; }
  std::string structure() const override;
  Status Start(const RangeRequest& range) override;

 private:
  Status ScriptedFault(JobTensors tensors) const;
  void Echo(const QueryTensors& query) const;

  const ModelSpec& spec_;
  std::vector<BucketRanges> ranges_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_RUNTIME_FAKE_RUNTIME_H_
