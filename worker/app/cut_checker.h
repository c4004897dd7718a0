// CutChecker: holds what serves against the plain module, and every way to cut a model against its uncut run, and times
// some.
//
// For each bucket, on inputs of every scale, and with NaN and an infinity among them where a query may hold these:
//   uncut against plain  within the tolerance
//   cut against uncut    byte by byte: the whole range, every cut point ([0, k) then [k, N)), the chain of all
//                        intervals, random chains. At the first scale; at the others some of them.
//   padded query         a query smaller than the bucket against the plain module on the same padded inputs
// A run on other inputs comes before each cut one, so that a range which reads what an earlier run left behind shows up
// as a difference.
//
// Free of LibTorch headers. Thread rule: one thread; loads the model in it. Ownership: keeps the options and the model.
#ifndef ABACUS_WORKER_APP_CUT_CHECKER_H_
#define ABACUS_WORKER_APP_CUT_CHECKER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"
#include "worker/app/runtime_factory.h"

namespace abacus {

class ModelBench;

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
  double plain_difference = 0;              // relative, uncut run against the plain module, largest of all scales
  std::vector<std::string> scales;          // that were compared
  std::string worst_scale;                  // of the first failure, else of plain_difference
  std::optional<double> padded_difference;  // relative, as plain_difference; none: nothing in this bucket can be padded
  std::string error;                        // what else than a cut differs
  std::vector<std::string> notes;           // what was not compared, and why
  std::array<double, 6> time_us{};
  bool ok() const { return different == 0 && error.empty(); }
};
// The last two wait after every slice, as serving does; the others wait once, at the end.
inline constexpr std::array<const char*, 6> kTimeNames = {"whole",       "full_range",        "two_slices",
                                                          "four_slices", "two_slices_waited", "four_slices_waited"};

class CutChecker {
 public:
  explicit CutChecker(const CutCheckerOptions& options);
  // With a model that was loaded elsewhere, in place of Load().
  CutChecker(const CutCheckerOptions& options, std::unique_ptr<ModelBench> bench);
  ~CutChecker();

  Status Load();
  ModelBench& bench() { return *bench_; }
  const ModelSpec& spec() const;
  // Whether the options ask for this bucket.
  bool Wants(uint32_t bucket) const;
  // An error: something could not be run. That outputs differ is in the report.
  Result<BucketReport> Check(uint32_t bucket);

 private:
  struct Sample;
  using Chains = std::vector<std::vector<uint32_t>>;

  // `plain_may_fail`: a sample for which the plain module has no answer says nothing and is left out.
  Status CheckSample(const Sample& sample, const Chains& chains, bool plain_may_fail, BucketReport* report);
  Status CheckPadded(BucketReport* report);
  Status Time(BucketReport* report);

  const CutCheckerOptions options_;
  std::unique_ptr<ModelBench> bench_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_APP_CUT_CHECKER_H_
