// CutChecker: compares every way to cut a model with its uncut run, and times some.
//
// For each bucket the uncut run is the reference. Compared with it, byte by byte: the whole range, every cut point
// ([0, k) then [k, N)), the chain of all intervals, and random chains of three and four ranges. A run on other inputs
// comes before each, and output memory is overwritten, so that a range which reads memory of an earlier run or skips
// its output shows up as a difference. The uncut run itself is compared with the program's reference, the plain module,
// within the tolerance.
//
// Free of LibTorch headers. Thread rule: one thread; loads the model in it. Ownership: keeps the options and the
// runtime.
#ifndef ABACUS_WORKER_APP_CUT_CHECKER_H_
#define ABACUS_WORKER_APP_CUT_CHECKER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/app/runtime_factory.h"
#include "worker/torch/torch_runtime.h"

namespace abacus {

struct CutCheckerOptions {
  std::filesystem::path model;  // NAME.toml
  RuntimeOptions runtime;
  std::vector<int64_t> batches;  // buckets of these batch sizes; empty: all buckets
  int repetitions = 20;          // of each timing; the median counts
};

struct BucketReport {
  uint32_t bucket = 0;
  std::string label;
  uint32_t operators = 0;
  size_t cuts = 0;
  uint64_t solo_ns = 0;
  size_t chains = 0;     // compared with the uncut run
  size_t different = 0;  // of them
  double max_difference = 0;
  double plain_difference = 0;  // relative, uncut run against the plain module
  std::string error;            // the uncut run differs from the plain module
  std::array<double, 6> time_us{};
  bool ok() const { return different == 0 && error.empty(); }
};
// The last two wait after every slice, as serving does; the others wait once, at the end.
inline constexpr std::array<const char*, 6> kTimeNames = {"whole",       "full_range",        "two_slices",
                                                          "four_slices", "two_slices_waited", "four_slices_waited"};

class CutChecker {
 public:
  explicit CutChecker(const CutCheckerOptions& options) : options_(options) {}

  Status Load();
  const ModelSpec& spec() const { return spec_; }
  // Whether the options ask for this bucket.
  bool Wants(uint32_t bucket) const;
  // An error: something could not be run. That outputs differ is in the report.
  Result<BucketReport> Check(uint32_t bucket);

 private:
  Status RunChain(uint32_t bucket, const std::vector<uint32_t>& chain, const JobTensors& tensors);
  Status Time(BucketReport* report);

  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  const CutCheckerOptions options_;
  ModelSpec spec_;
  std::unique_ptr<std::byte, Free> arena_;  // two blocks; outlives the runtime, which may have pinned it
  uint64_t block_bytes_ = 0;
  std::unique_ptr<TorchRuntime> runtime_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_CUT_CHECKER_H_
