#include "worker/app/verify.h"

#include <ATen/core/Tensor.h>
#include <c10/util/StringUtil.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "worker/app/model_bench.h"
#include "worker/app/output_difference.h"

namespace abacus {
namespace {

// Uncut, then in all its intervals: nothing raises, and both give the same bits.
Status RunBucket(ModelBench& bench, uint32_t bucket) {
  const BucketPlan& plan = bench.program().buckets()[bucket];
  bench.SetQuery(plan.bucket, plan.sample);
  ABACUS_RETURN_IF_ERROR(bench.Run(bucket, {}));
  std::vector<at::Tensor> uncut;
  for (const at::Tensor& output : bench.outputs()) uncut.push_back(output.clone());
  ABACUS_RETURN_IF_ERROR(bench.Run(bucket, bench.ranges(bucket).cuts));
  if (MaxDifference(uncut, bench.outputs()) == 0) return Status::Ok();
  return {
      StatusCode::kInvalidArgument,
      c10::str("model \"", bench.spec().name, "\", ", plan.label,
               ": its outputs differ between a run as a whole and one in ranges; `abacus-worker check` says where")};
}

Result<std::unique_ptr<ModelBench>> Verify(const VerifyOptions& options) {
  const Result<ModelSpec> spec = LoadModelSpec(options.model);
  if (!spec) return Error(spec.error());
  Result<std::unique_ptr<ModelBench>> bench = ModelBench::Load(*spec, options.runtime);
  if (!bench) return bench;
  for (uint32_t b = 0; b < spec->bucket_count(); ++b) ABACUS_RETURN_IF_ERROR(RunBucket(**bench, b));
  return bench;
}

void PrintJson(const ModelSpec& spec, const std::string& device, ModelBench& bench) {
  nlohmann::ordered_json json;
  json["model"] = spec.name;
  json["device"] = device;
  json["digest"] = bench.digest();
  json["structure"] = bench.runtime().structure();
  json["buckets"] = spec.bucket_count();
  json["claims"]["batchable"] = spec.batchable;
  if (spec.has_sequence()) json["claims"]["sequence_padding"] = SequencePaddingName(spec.sequence_padding);
  std::printf("%s\n", json.dump().c_str());
}

void PrintText(const ModelSpec& spec, const std::string& device, ModelBench& bench) {
  const std::string rows = spec.batchable ? "rows are independent" : "batches of exactly these sizes";
  std::string sequence;
  if (spec.has_sequence()) sequence = c10::str(", sequence padding ", SequencePaddingName(spec.sequence_padding));
  std::printf("%s on %s: %zu %s, %s%s, digest %s\n", spec.name.c_str(), device.c_str(), spec.bucket_count(),
              spec.bucket_count() == 1 ? "bucket" : "buckets", rows.c_str(), sequence.c_str(),
              bench.digest().substr(0, 16).c_str());
}

}  // namespace

int RunVerify(const VerifyOptions& options) {
  VerifyOptions quick = options;
  LoadHooks& hooks = quick.runtime.hooks;
  hooks.measure = false;
  if (!hooks.progress) {
    hooks.progress = [](std::string_view stage) {
      if (stage.starts_with("warning")) std::fprintf(stderr, "%.*s\n", static_cast<int>(stage.size()), stage.data());
    };
  }
  const Result<std::unique_ptr<ModelBench>> bench = Verify(quick);
  if (!bench) {
    std::fprintf(stderr, "%s\n", bench.error().ToString().c_str());
    return 2;
  }
  const std::string device = DeviceText(options.runtime);
  options.json ? PrintJson((*bench)->spec(), device, **bench) : PrintText((*bench)->spec(), device, **bench);
  return 0;
}

}  // namespace abacus
