#include "worker/app/check.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace abacus {
namespace {

void PrintTableHead(const ModelSpec& spec, const CheckOptions& options) {
  std::printf("%s on %s, times in us (median of %d), over the uncut run in %%\n", spec.name.c_str(),
              options.checker.runtime.device == RuntimeOptions::Device::kCpu ? "cpu" : "cuda",
              options.checker.repetitions);
  std::printf("%-24s %9s %5s %11s %9s %10s %18s %18s %18s %18s %18s  %s\n", "bucket", "operators", "cuts", "plain diff",
              "cut diff", "uncut", "full range", "two slices", "four slices", "two, waited", "four, waited", "result");
}

void PrintRow(const BucketReport& report) {
  std::printf("%-24s %9u %5zu %11.2e %9.2g %10.1f", report.label.c_str(), report.operators, report.cuts,
              report.plain_difference, report.max_difference, report.time_us[0]);
  for (size_t i = 1; i < report.time_us.size(); ++i) {
    std::printf(" %10.1f %+6.2f%%", report.time_us[i], 100 * (report.time_us[i] / report.time_us[0] - 1));
  }
  if (report.ok()) {
    std::printf("  identical (%zu ways)\n", report.chains);
  } else {
    std::printf("  DIFFERENT (%zu of %zu ways) %s\n", report.different, report.chains, report.error.c_str());
  }
  std::fflush(stdout);
}

void PrintJson(const ModelSpec& spec, const CheckOptions& options, const BucketReport& report) {
  nlohmann::ordered_json json;
  json["model"] = spec.name;
  json["device"] = options.checker.runtime.device == RuntimeOptions::Device::kCpu
                       ? std::string("cpu")
                       : "cuda:" + options.checker.runtime.gpu;
  json["bucket"] = report.bucket;
  json["batch"] = spec.bucket(report.bucket).batch;
  json["sequence"] = spec.bucket(report.bucket).sequence;
  json["operators"] = report.operators;
  json["cuts"] = report.cuts;
  json["ways"] = report.chains;
  json["different"] = report.different;
  json["max_difference"] = report.max_difference;  // null stands for infinity
  json["plain_difference"] = report.plain_difference;
  json["solo_us"] = static_cast<double>(report.solo_ns) / kNsPerUs;
  for (size_t i = 0; i < kTimeNames.size(); ++i) json["time_us"][kTimeNames[i]] = report.time_us[i];
  json["ok"] = report.ok();
  if (!report.error.empty()) json["error"] = report.error;
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int RunCheck(const CheckOptions& options) {
  CutCheckerOptions with_progress = options.checker;
  if (!with_progress.runtime.progress) {
    with_progress.runtime.progress = [](std::string_view stage) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(stage.size()), stage.data());
    };
  }
  CutChecker checker(with_progress);
  if (const Status status = checker.Load(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 2;
  }
  const ModelSpec& spec = checker.spec();
  if (!options.json) PrintTableHead(spec, options);
  bool all_ok = true;
  for (uint32_t b = 0; b < spec.bucket_count(); ++b) {
    if (!checker.Wants(b)) continue;
    const Result<BucketReport> report = checker.Check(b);
    if (!report) {
      std::fprintf(stderr, "%s\n", report.error().ToString().c_str());
      return 2;
    }
    options.json ? PrintJson(spec, options, *report) : PrintRow(*report);
    all_ok = all_ok && report->ok();
  }
  return all_ok ? 0 : 1;
}

}  // namespace abacus
