#include "worker/app/cut_checker.h"

#include <ATen/core/Tensor.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "base/clock.h"
#include "worker/app/model_bench.h"
#include "worker/app/output_difference.h"
#include "worker/torch/graph_check.h"
#include "worker/torch/load_check.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {

// What a bucket is run with.
struct CutChecker::Sample {
  std::string name;
  std::vector<at::Tensor> inputs;
  std::optional<double> special;  // the NaN or infinity that they hold
};

namespace {

constexpr uint64_t kInputSeed = 1001;
constexpr uint64_t kPaddedSeed = 2002;
constexpr uint32_t kRandomChains = 4;
constexpr uint32_t kFewRandomChains = 3;

double MedianUs(std::vector<uint64_t> times_ns) {
  const auto middle = times_ns.begin() + static_cast<ptrdiff_t>(times_ns.size() / 2);
  std::nth_element(times_ns.begin(), middle, times_ns.end());
  return static_cast<double>(*middle) / kNsPerUs;
}

// `parts` ranges as equal in number of intervals as `cuts` allows.
std::vector<uint32_t> EvenChain(const std::vector<uint32_t>& cuts, size_t parts) {
  const size_t intervals = cuts.size() - 1;
  std::vector<uint32_t> chain = {0};
  for (size_t i = 1; i <= parts; ++i) {
    const uint32_t cut = cuts[intervals * i / parts];
    if (cut > chain.back()) chain.push_back(cut);
  }
  return chain;
}

// Of three or four ranges, each the ascending list of its boundaries.
std::vector<std::vector<uint32_t>> RandomChains(const std::vector<uint32_t>& cuts, uint32_t count,
                                                std::mt19937* random) {
  std::vector<std::vector<uint32_t>> chains;
  for (uint32_t c = 0; c < count; ++c) {
    std::vector<uint32_t> chain(cuts.begin() + 1, cuts.end() - 1);
    std::ranges::shuffle(chain, *random);
    chain.resize(std::min<size_t>(chain.size(), 2 + c % 2));
    chain.insert(chain.end(), {0, cuts.back()});
    std::ranges::sort(chain);
    chains.push_back(std::move(chain));
  }
  return chains;
}

// The ways to cut that are checked.
std::vector<std::vector<uint32_t>> MakeChains(const std::vector<uint32_t>& cuts, bool every_cut, std::mt19937* random) {
  std::vector<std::vector<uint32_t>> chains = RandomChains(cuts, every_cut ? kRandomChains : kFewRandomChains, random);
  chains.push_back({0, cuts.back()});
  chains.push_back(cuts);
  for (size_t i = 1; every_cut && i + 1 < cuts.size(); ++i) chains.push_back({0, cuts[i], cuts.back()});
  return chains;
}

// A query that this bucket serves and does not fill.
std::optional<Bucket> SmallerQuery(const ModelSpec& spec, const Bucket& bucket) {
  Bucket query = bucket;
  if (spec.batchable && bucket.batch > 1) --query.batch;
  if (spec.has_sequence() && spec.sequence_padding != SequencePadding::kExact) {
    int64_t shorter = 0;  // the next shorter bucket's
    for (const int64_t length : spec.sequence_lengths) shorter = length < bucket.sequence ? length : shorter;
    query.sequence = std::max<int64_t>((shorter + bucket.sequence) / 2, 1);
  }
  if (query.batch == bucket.batch && query.sequence == bucket.sequence) return std::nullopt;
  return query;
}

void Fail(const std::string& sample, const std::string& what, BucketReport* report) {
  if (report->ok()) report->worst_scale = sample;
  if (report->error.empty()) report->error = what;
}

}  // namespace

CutChecker::CutChecker(const CutCheckerOptions& options) : options_(options) {}
CutChecker::CutChecker(const CutCheckerOptions& options, std::unique_ptr<ModelBench> bench)
    : options_(options), bench_(std::move(bench)) {}
CutChecker::~CutChecker() = default;

Status CutChecker::Load() {
  const Result<ModelSpec> model = LoadModelSpec(options_.model);
  if (!model) return model.error();
  ABACUS_RETURN_IF_ERROR(CheckBatches(*model, options_.batches));
  Result<std::unique_ptr<ModelBench>> bench = ModelBench::Load(*model, options_.runtime);
  if (!bench) return bench.error();
  bench_ = std::move(*bench);
  return Status::Ok();
}

const ModelSpec& CutChecker::spec() const { return bench_->spec(); }

bool CutChecker::Wants(uint32_t bucket) const {
  return options_.batches.empty() ||
         std::ranges::find(options_.batches, spec().bucket(bucket).batch) != options_.batches.end();
}

Result<BucketReport> CutChecker::Check(uint32_t bucket) {
  const BucketRanges& ranges = bench_->ranges(bucket);
  BucketReport report;
  report.bucket = bucket;
  report.label = bench_->program().buckets()[bucket].label;
  report.operators = ranges.operators;
  report.cuts = ranges.cuts.size();
  report.solo_ns = ranges.solo_ns;

  std::mt19937 random(bucket);
  const auto scale_sample = [&](SampleScale scale) {
    return Sample{std::string(ScaleName(spec(), scale)), MakeSampleInputs(spec(), bucket, kInputSeed, scale), {}};
  };
  const std::vector<SampleScale> scales = ScalesOf(spec());
  const Sample usual = scale_sample(scales.front());
  ABACUS_RETURN_IF_ERROR(
      CheckSample(usual, MakeChains(ranges.cuts, /*every_cut=*/true, &random), /*plain_may_fail=*/false, &report));
  if (!bench_->program().usual_inputs_only()) {
    std::vector<Sample> others;
    for (size_t i = 1; i < scales.size(); ++i) others.push_back(scale_sample(scales[i]));
    for (const auto& [name, value] : {std::pair("with a NaN", std::numeric_limits<double>::quiet_NaN()),
                                      std::pair("with an infinity", std::numeric_limits<double>::infinity())}) {
      others.push_back({name, WithSpecialValue(spec(), usual.inputs, value), value});
    }
    for (const Sample& sample : others) {
      if (sample.inputs.empty()) continue;  // no input takes such values
      ABACUS_RETURN_IF_ERROR(CheckSample(sample, MakeChains(ranges.cuts, /*every_cut=*/false, &random),
                                         /*plain_may_fail=*/true, &report));
    }
  } else {
    report.notes.emplace_back(
        "only inputs of the first scale were tried: by others a loop may never end, or an index fail on the GPU");
  }
  ABACUS_RETURN_IF_ERROR(CheckPadded(&report));
  ABACUS_RETURN_IF_ERROR(Time(&report));
  return report;
}

Status CutChecker::CheckSample(const Sample& sample, const Chains& chains, bool plain_may_fail, BucketReport* report) {
  const uint32_t bucket = report->bucket;
  const BucketPlan& plan = bench_->program().buckets()[bucket];
  const auto leave_out = [&](const std::string& why) {
    report->notes.push_back(c10::str("left out ", sample.name, ": the plain module ", why));
    return Status::Ok();
  };
  const Result<std::vector<at::Tensor>> plain = bench_->program().Reference(bucket, sample.inputs);
  const Status answered = plain ? CheckOutputs(plan, *plain) : plain.error();
  if (!answered.ok()) return plain_may_fail ? leave_out("fails: " + answered.message()) : answered;
  if (plain_may_fail && !sample.special && !AreFinite(*plain)) return leave_out("answers NaN or infinities");

  report->scales.push_back(sample.name);
  bench_->SetQuery(plan.bucket, sample.inputs);
  ABACUS_RETURN_IF_ERROR(bench_->Run(bucket, {}));
  std::vector<at::Tensor> uncut;
  for (const at::Tensor& output : bench_->outputs()) uncut.push_back(output.clone());
  const Result<double> difference =
      sample.special ? CompareSpecials(plan, *plain, uncut, std::isnan(*sample.special), spec().tolerance)
                     : CompareOutputs(plan, *plain, uncut, spec().tolerance);
  if (!difference) {
    Fail(sample.name, c10::str(sample.name, ": ", difference.error().message()), report);
  } else if (report->ok() && (report->worst_scale.empty() || *difference > report->plain_difference)) {
    report->worst_scale = sample.name;
  }
  if (difference) report->plain_difference = std::max(report->plain_difference, *difference);

  for (const std::vector<uint32_t>& chain : chains) {
    ABACUS_RETURN_IF_ERROR(bench_->RunOther(bucket));
    ABACUS_RETURN_IF_ERROR(bench_->Run(bucket, chain));
    const double cut_difference = MaxDifference(uncut, bench_->outputs());
    ++report->chains;
    if (cut_difference == 0) continue;
    if (report->ok()) report->worst_scale = sample.name;
    ++report->different;
    report->max_difference = std::max(report->max_difference, cut_difference);
  }
  return Status::Ok();
}

Status CutChecker::CheckPadded(BucketReport* report) {
  const uint32_t bucket = report->bucket;
  const BucketPlan& plan = bench_->program().buckets()[bucket];
  const std::optional<Bucket> query = SmallerQuery(spec(), plan.bucket);
  if (!query) return Status::Ok();
  const std::vector<at::Tensor> inputs = MakeSampleInputs(spec(), *query, kPaddedSeed);
  const Result<std::vector<at::Tensor>> plain =
      bench_->program().Reference(bucket, PadInputs(spec(), plan.bucket, *query, inputs));
  if (!plain) return plain.error().WithContext("a padded query");
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, *plain));
  const std::vector<at::Tensor> expected = TrimOutputs(spec(), *query, *plain);

  bench_->SetQuery(*query, inputs);
  for (const std::vector<uint32_t>& chain : {std::vector<uint32_t>{}, bench_->ranges(bucket).cuts}) {
    ABACUS_RETURN_IF_ERROR(bench_->RunOther(bucket));
    ABACUS_RETURN_IF_ERROR(bench_->Run(bucket, chain));
    const Result<double> difference = CompareOutputs(bench_->plan(), expected, bench_->outputs(), spec().tolerance);
    if (!difference) {
      constexpr const char* kSample = "a padded query";
      Fail(kSample, c10::str(kSample, chain.empty() ? "" : ", cut", ": ", difference.error().message()), report);
      report->padded_difference = std::numeric_limits<double>::infinity();
    } else {
      report->padded_difference = std::max(report->padded_difference.value_or(0), *difference);
    }
  }
  return Status::Ok();
}

// The ways take turns, so that a drift of the machine's speed meets all alike.
Status CutChecker::Time(BucketReport* report) {
  const uint32_t bucket = report->bucket;
  TorchRuntime& runtime = bench_->runtime();
  const std::vector<uint32_t>& cuts = runtime.ranges(bucket).cuts;
  const std::array<std::vector<uint32_t>, 6> chains = {std::vector<uint32_t>{}, EvenChain(cuts, 1), EvenChain(cuts, 2),
                                                       EvenChain(cuts, 4),      EvenChain(cuts, 2), EvenChain(cuts, 4)};
  const auto run = [&](size_t way) -> Status {
    if (way == 0) return runtime.RunUncut(bucket, {});
    if (way < 4) return runtime.RunBackToBack(bucket, chains[way], {});
    for (size_t i = 0; i + 1 < chains[way].size(); ++i) {
      ABACUS_RETURN_IF_ERROR(runtime.Run(bucket, chains[way][i], chains[way][i + 1], {}));
    }
    return Status::Ok();
  };
  std::array<std::vector<uint64_t>, 6> times_ns;
  for (int repetition = -1; repetition < std::max(options_.repetitions, 1); ++repetition) {
    for (size_t way = 0; way < chains.size(); ++way) {
      const uint64_t start_ns = MonotonicNs();
      ABACUS_RETURN_IF_ERROR(run(way));
      if (repetition >= 0) times_ns[way].push_back(MonotonicNs() - start_ns);
    }
  }
  for (size_t way = 0; way < chains.size(); ++way) report->time_us[way] = MedianUs(times_ns[way]);
  return Status::Ok();
}

}  // namespace abacus
