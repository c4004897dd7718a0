#include "client/load_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

namespace abacus {
namespace {

using Json = nlohmann::ordered_json;

LoadFigures FiguresOf(std::string name, uint64_t qos_us, const LoadPlan& plan, const LoadOutcome& outcome,
                      std::span<const LoadRecord> records) {
  LoadFigures figures;
  figures.name = std::move(name);
  figures.qos_us = qos_us;
  std::vector<uint64_t> latencies_ns;
  for (const LoadRecord& record : records) {
    ++figures.sent;
    const auto status = static_cast<size_t>(record.status);
    if (!record.answered) {
      ++figures.lost_by[status];
      ++figures.lost;
      continue;
    }
    ++figures.replies[status];
    if (record.status == StatusCode::kCancelled) continue;  // by us, when the run was interrupted
    if (record.status != StatusCode::kOk) {
      ++figures.rejected;
      continue;
    }
    latencies_ns.push_back(record.latency_ns);
    const uint64_t target_us = plan.services[record.service].qos_us;
    if (target_us != 0 && record.latency_ns > target_us * 1000) ++figures.late;
  }
  const auto ok = static_cast<double>(latencies_ns.size());
  if (outcome.duration_s > 0) {
    figures.throughput_per_s = ok / outcome.duration_s;
    figures.goodput_per_s = (ok - static_cast<double>(figures.late)) / outcome.duration_s;
  }
  figures.latency = PercentilesOf(std::move(latencies_ns));
  return figures;
}

Json ToJson(const Percentiles& p) {
  return {{"p50", p.p50_us}, {"p90", p.p90_us}, {"p99", p.p99_us}, {"p99.9", p.p999_us}, {"max", p.max_us}};
}

Json CountsToJson(const std::array<uint64_t, kStatusCodeNames.size()>& counts) {
  Json json = Json::object();
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) json[std::string(kStatusCodeNames[i])] = counts[i];
  }
  return json;
}

Json ToJson(const LoadFigures& f) {
  Json json = {{"name", f.name}};
  if (f.qos_us != 0) json["qos_us"] = f.qos_us;
  json["sent"] = f.sent;
  json["replies"] = CountsToJson(f.replies);
  json["lost"] = f.lost;
  json["lost_by"] = CountsToJson(f.lost_by);
  json["violations"] = {{"late", f.late}, {"rejected", f.rejected}};
  json["goodput_per_s"] = f.goodput_per_s;
  json["throughput_per_s"] = f.throughput_per_s;
  json["latency_us"] = ToJson(f.latency);
  return json;
}

template <class... Args>
std::string Format(const char* format, Args... args) {
  std::string text(static_cast<size_t>(std::snprintf(nullptr, 0, format, args...)), '\0');
  std::snprintf(text.data(), text.size() + 1, format, args...);
  return text;
}

std::string TableRow(const LoadFigures& f) {
  const Percentiles& l = f.latency;
  return Format("%-20s %8llu %8llu %6llu %8llu %6llu %9.1f %9.1f %9.2f %9.2f %9.2f %9.2f\n", f.name.c_str(),
                static_cast<unsigned long long>(f.sent), static_cast<unsigned long long>(f.replies[0]),
                static_cast<unsigned long long>(f.late), static_cast<unsigned long long>(f.rejected),
                static_cast<unsigned long long>(f.lost), f.goodput_per_s, f.throughput_per_s, l.p50_us / 1e3,
                l.p99_us / 1e3, l.p999_us / 1e3, l.max_us / 1e3);
}

}  // namespace

uint64_t PercentileOf(std::span<const uint64_t> ascending, double q) {
  if (ascending.empty()) return 0;
  const auto rank = static_cast<size_t>(std::ceil(q * static_cast<double>(ascending.size())));
  return ascending[std::clamp<size_t>(rank, 1, ascending.size()) - 1];
}

Percentiles PercentilesOf(std::vector<uint64_t> values_ns) {
  std::sort(values_ns.begin(), values_ns.end());
  const auto at_us = [&](double q) { return static_cast<double>(PercentileOf(values_ns, q)) / 1e3; };
  return {at_us(0.5), at_us(0.9), at_us(0.99), at_us(0.999), at_us(1)};
}

LoadReport MakeReport(const LoadPlan& plan, const LoadOutcome& outcome) {
  LoadReport report;
  report.options = plan.options;
  report.planned = plan.arrivals.size();
  report.duration_s = outcome.duration_s;
  report.interrupted = outcome.interrupted;
  report.counters = outcome.counters;
  std::vector<LoadRecord> sent;
  std::vector<std::vector<LoadRecord>> of_service(plan.services.size());
  std::vector<uint64_t> lateness_ns;
  for (const LoadRecord& record : outcome.records) {
    if (!record.sent) continue;
    sent.push_back(record);
    of_service[record.service].push_back(record);
    lateness_ns.push_back(record.lateness_ns);
  }
  report.lateness = PercentilesOf(std::move(lateness_ns));
  report.total = FiguresOf("total", 0, plan, outcome, sent);
  for (size_t i = 0; i < plan.services.size(); ++i) {
    const PlannedService& service = plan.services[i];
    report.services.push_back(FiguresOf(service.name, service.qos_us, plan, outcome, of_service[i]));
  }
  return report;
}

std::string ToJson(const LoadReport& report) {
  Json services = Json::array();
  for (const LoadFigures& figures : report.services) services.push_back(ToJson(figures));
  const Json json = {
      {"seed", report.options.seed},
      {"rate_per_s", report.options.rate_per_s},
      {"seconds", report.options.seconds},
      {"payload", report.options.payload},
      {"planned", report.planned},
      {"interrupted", report.interrupted},
      {"duration_s", report.duration_s},
      {"send_lateness_us", ToJson(report.lateness)},
      {"duplicates", report.counters.duplicates},
      {"late_replies", report.counters.late},
      {"malformed_replies", report.counters.malformed},
      {"total", ToJson(report.total)},
      {"services", std::move(services)},
  };
  return json.dump(2);
}

std::string ToTable(const LoadReport& report) {
  std::string table = Format("offered %.1f/s for %.1f s, seed %llu, %s; took %.2f s%s\n", report.options.rate_per_s,
                             report.options.seconds, static_cast<unsigned long long>(report.options.seed),
                             report.options.payload ? "with payload" : "synthetic", report.duration_s,
                             report.interrupted ? " (interrupted)" : "");
  table += Format("%-20s %8s %8s %6s %8s %6s %9s %9s %9s %9s %9s %9s\n", "service", "sent", "ok", "late", "rejected",
                  "lost", "goodput/s", "ok/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms");
  for (const LoadFigures& figures : report.services) table += TableRow(figures);
  table += TableRow(report.total);
  for (size_t i = 1; i < kStatusCodeNames.size(); ++i) {
    const std::string name(kStatusCodeNames[i]);
    const auto count = static_cast<unsigned long long>(report.total.replies[i]);
    const auto lost = static_cast<unsigned long long>(report.total.lost_by[i]);
    if (count > 0) table += Format("replies %s: %llu\n", name.c_str(), count);
    if (lost > 0) table += Format("lost to %s: %llu\n", name.c_str(), lost);
  }
  const ClientCounters& counters = report.counters;
  if (counters.duplicates + counters.late + counters.malformed > 0) {
    table +=
        Format("dropped replies: %llu duplicate, %llu too late, %llu malformed\n",
               static_cast<unsigned long long>(counters.duplicates), static_cast<unsigned long long>(counters.late),
               static_cast<unsigned long long>(counters.malformed));
  }
  table +=
      Format("sending was late by %.0f us at p99, %.0f us at most\n", report.lateness.p99_us, report.lateness.max_us);
  return table;
}

}  // namespace abacus
