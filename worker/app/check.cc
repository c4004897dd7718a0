#include "worker/app/check.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "worker/app/cases.h"
#include "worker/app/index_trial.h"

namespace abacus {
namespace {

constexpr int kAgree = 0;
constexpr int kDiffer = 1;
constexpr int kFailed = 2;

void PrintLine(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

int Failed(const Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return kFailed;
}

nlohmann::ordered_json JsonHead(const ModelSpec& spec, const CheckOptions& options) {
  nlohmann::ordered_json json;
  json["model"] = spec.name;
  json["device"] = DeviceText(options.checker.runtime);
  return json;
}

// --- Buckets -------------------------------------------------------------------------------------------------------

void PrintTableHead(const ModelSpec& spec, const CheckOptions& options) {
  std::printf("%s on %s, times in us (median of %d), over the uncut run in %%\n", spec.name.c_str(),
              DeviceText(options.checker.runtime).c_str(), options.checker.repetitions);
  std::printf("%-24s %9s %5s %11s %11s %9s %10s %18s %18s %18s %18s %18s  %s\n", "bucket", "operators", "cuts",
              "plain diff", "padded diff", "cut diff", "uncut", "full range", "two slices", "four slices",
              "two, waited", "four, waited", "result");
}

void PrintRow(const BucketReport& report) {
  char padded[16] = "-";
  if (report.padded_difference) std::snprintf(padded, sizeof padded, "%.2e", *report.padded_difference);
  std::printf("%-24s %9u %5zu %11.2e %11s %9.2g %10.1f", report.label.c_str(), report.operators, report.cuts,
              report.plain_difference, padded, report.max_difference, report.time_us[0]);
  for (size_t i = 1; i < report.time_us.size(); ++i) {
    std::printf(" %10.1f %+6.2f%%", report.time_us[i], 100 * (report.time_us[i] / report.time_us[0] - 1));
  }
  if (report.ok()) {
    std::printf("  identical (%zu ways)\n", report.chains);
  } else {
    std::printf("  DIFFERENT (%zu of %zu ways, first: %s) %s\n", report.different, report.chains,
                report.worst_scale.c_str(), report.error.c_str());
  }
  std::string scales;
  for (const std::string& scale : report.scales) scales += (scales.empty() ? "" : "; ") + scale;
  std::printf("  inputs: %s%s\n", scales.c_str(),
              report.ok() ? (", largest plain diff: " + report.worst_scale).c_str() : "");
  for (const std::string& note : report.notes) std::printf("  %s\n", note.c_str());
  std::fflush(stdout);
}

void PrintJson(const ModelSpec& spec, const CheckOptions& options, const BucketReport& report) {
  nlohmann::ordered_json json = JsonHead(spec, options);
  json["bucket"] = report.bucket;
  json["batch"] = spec.bucket(report.bucket).batch;
  json["sequence"] = spec.bucket(report.bucket).sequence;
  json["operators"] = report.operators;
  json["cuts"] = report.cuts;
  json["ways"] = report.chains;
  json["different"] = report.different;
  json["max_difference"] = report.max_difference;  // null stands for infinity
  json["plain_difference"] = report.plain_difference;
  json["scales"] = report.scales;
  json["worst_scale"] = report.worst_scale;
  if (report.padded_difference) json["padded_difference"] = *report.padded_difference;
  if (!report.notes.empty()) json["notes"] = report.notes;
  json["solo_us"] = static_cast<double>(report.solo_ns) / kNsPerUs;
  for (size_t i = 0; i < kTimeNames.size(); ++i) json["time_us"][kTimeNames[i]] = report.time_us[i];
  json["ok"] = report.ok();
  if (!report.error.empty()) json["error"] = report.error;
  PrintLine(json.dump());
}

int CheckBuckets(CutChecker& checker, const CheckOptions& options) {
  const ModelSpec& spec = checker.spec();
  if (!options.json) PrintTableHead(spec, options);
  bool all_ok = true;
  uint32_t last = 0;
  for (uint32_t b = 0; b < spec.bucket_count(); ++b) {
    if (!checker.Wants(b)) continue;
    const Result<BucketReport> report = checker.Check(b);
    if (!report) return Failed(report.error());
    options.json ? PrintJson(spec, options, *report) : PrintRow(*report);
    all_ok = all_ok && report->ok();
    last = b;
  }
  if (options.checker.runtime.device == RuntimeOptions::Device::kCpu) {
    for (const std::string& line : TryIndices(checker.bench(), last)) {
      nlohmann::ordered_json json = JsonHead(spec, options);
      json["note"] = line;
      PrintLine(options.json ? json.dump() : line);
    }
  }
  return all_ok ? kAgree : kDiffer;
}

// --- Recorded cases ------------------------------------------------------------------------------------------------

void PrintCase(const ModelSpec& spec, const CheckOptions& options, const CaseReport& report) {
  if (!options.json) {
    std::printf("%-24s %-24s %11.2e  %s\n", report.name.c_str(), report.label.c_str(), report.difference,
                report.ok() ? "as recorded" : ("DIFFERENT: " + report.error).c_str());
    std::fflush(stdout);
    return;
  }
  nlohmann::ordered_json json = JsonHead(spec, options);
  json["case"] = report.name;
  json["bucket"] = report.bucket;
  json["difference"] = report.difference;
  json["of_tolerance"] = report.of_tolerance;
  json["ok"] = report.ok();
  if (!report.ok()) json["error"] = report.error;
  PrintLine(json.dump());
}

int CheckCases(ModelBench& bench, const ModelSpec& spec, const CheckOptions& options) {
  const auto folders = FindCases(options.cases);
  if (!folders) return Failed(folders.error());
  if (!options.json) {
    std::printf("%s on %s\n%-24s %-24s %11s  %s\n", spec.name.c_str(), DeviceText(options.checker.runtime).c_str(),
                "case", "query", "diff", "result");
  }
  bool all_ok = true;
  for (const std::filesystem::path& folder : *folders) {
    const Result<CaseReport> report = CheckCase(bench, folder);
    if (!report) return Failed(report.error());
    PrintCase(spec, options, *report);
    all_ok = all_ok && report->ok();
  }
  return all_ok ? kAgree : kDiffer;
}

}  // namespace

int RunCheck(const CheckOptions& options) {
  CutCheckerOptions with_progress = options.checker;
  LoadHooks& hooks = with_progress.runtime.hooks;
  if (!hooks.progress) {
    hooks.progress = [](std::string_view stage) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(stage.size()), stage.data());
    };
  }
  CutChecker checker(with_progress);
  if (const Status status = checker.Load(); !status.ok()) return Failed(status);
  return options.cases.empty() ? CheckBuckets(checker, options) : CheckCases(checker.bench(), checker.spec(), options);
}

}  // namespace abacus
