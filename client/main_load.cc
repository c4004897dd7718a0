// abacus-client load: open-loop Poisson load on one or several services.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "client/commands.h"
#include "client/load_generator.h"
#include "client/load_report.h"

namespace abacus {
namespace {

std::atomic<bool> g_stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

// The first Ctrl-C ends the sending; the second one kills as usual.
void StopOnSignal() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

std::function<void(const LoadProgress&)> ProgressPrinter() {
  return [last_ok = uint64_t{0}, last_s = 0.0](const LoadProgress& p) mutable {
    const double ok_per_s = static_cast<double>(p.ok - last_ok) / (p.elapsed_s - last_s);
    std::fprintf(stderr, "%6.1f s  sent %llu  outstanding %llu  ok/s %.1f  violations %llu\n", p.elapsed_s,
                 static_cast<unsigned long long>(p.sent), static_cast<unsigned long long>(p.sent - p.done), ok_per_s,
                 static_cast<unsigned long long>(p.violations));
    last_ok = p.ok;
    last_s = p.elapsed_s;
  };
}

Status Write(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text << "\n";
  out.close();
  return out ? Status::Ok() : Status(StatusCode::kUnavailable, "cannot write " + path);
}

// Returns the number of lost queries.
Result<uint64_t> Load(const CommonOptions& common, const LoadCommandOptions& options) {
  std::vector<LoadService> services;
  for (const std::string& text : options.services) {
    auto service = ParseLoadService(text);
    if (!service) return Error(service.error().WithContext("--service"));
    services.push_back(std::move(*service));
  }
  const auto client = ConnectTo(common);
  if (!client) return Error(client.error());
  const auto models = (*client)->Models();
  if (!models) return Error(models.error());
  const auto plan = PlanLoad(*models, std::move(services), options.load);
  if (!plan) return Error(plan.error());

  StopOnSignal();
  const LoadReport report = MakeReport(*plan, RunLoad(**client, *plan, g_stop, ProgressPrinter()));
  const std::string json = ToJson(report);
  std::puts(common.json ? json.c_str() : ToTable(report).c_str());
  if (!options.out.empty()) ABACUS_RETURN_IF_ERROR(Write(options.out, json));
  return report.total.lost;
}

}  // namespace

int RunLoadCommand(const CommonOptions& common, const LoadCommandOptions& options) {
  const auto lost = Load(common, options);
  return lost ? (*lost > 0 ? 1 : 0) : ReportError(common, lost.error());
}

}  // namespace abacus
