// abacus-client load: open-loop load on one or several services, Poisson or of a trace.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "client/arrival_trace.h"
#include "client/commands.h"
#include "client/load_generator.h"
#include "client/load_report.h"

namespace abacus {
namespace {

constexpr uint64_t kLeaseAlignBytes = 64;  // of payloads

// Moves the payloads of all choices to one lease, so that queries name them instead of sending them.
Status MoveToLease(Client& client, LoadPlan* plan) {
  const auto padded = [](size_t bytes) { return (bytes + kLeaseAlignBytes - 1) / kLeaseAlignBytes * kLeaseAlignBytes; };
  uint64_t total_bytes = 0;
  for (const LoadChoice& choice : plan->choices) {
    for (const Tensor& tensor : choice.request.inputs) total_bytes += padded(tensor.bytes.size());
  }
  if (total_bytes == 0) return Status(StatusCode::kInvalidArgument, "there are no payloads to lease memory for");
  const auto memory = client.Lease(total_bytes);
  if (!memory) return memory.error();
  uint64_t offset = 0;
  for (LoadChoice& choice : plan->choices) {
    for (Tensor& tensor : choice.request.inputs) {
      auto leased = memory->At(tensor.name, tensor.dtype, tensor.shape, offset);
      if (!leased) return leased.error();
      std::copy(tensor.bytes.begin(), tensor.bytes.end(), memory->bytes().begin() + static_cast<ptrdiff_t>(offset));
      offset += padded(tensor.bytes.size());
      tensor = std::move(*leased);
    }
  }
  return Status::Ok();
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

// What to send, to a server with these models.
using Planner = std::function<Result<LoadPlan>(const std::vector<protocol::ModelDescription>&)>;

// Reads what the options name before anything is connected.
Result<Planner> MakePlanner(const LoadCommandOptions& options) {
  if (!options.trace.empty()) {
    auto trace = ReadArrivalTrace(options.trace);
    if (!trace) return Error(trace.error().WithContext("--trace"));
    return [trace = std::move(*trace), &options](const auto& models) { return PlanTrace(models, trace, options.load); };
  }
  std::vector<LoadService> services;
  for (const std::string& text : options.services) {
    auto service = ParseLoadService(text);
    if (!service) return Error(service.error().WithContext("--service"));
    services.push_back(std::move(*service));
  }
  return [services = std::move(services), &options](const auto& models) {
    return PlanLoad(models, services, options.load);
  };
}

// Returns the number of lost queries.
Result<uint64_t> Load(const CommonOptions& common, const LoadCommandOptions& options) {
  const auto planner = MakePlanner(options);
  if (!planner) return Error(planner.error());
  const auto client = ConnectTo(common);
  if (!client) return Error(client.error());
  const auto models = (*client)->Models();
  if (!models) return Error(models.error());
  auto plan = (*planner)(*models);
  if (!plan) return Error(plan.error());

  if (options.lease) {
    if (const Status moved = MoveToLease(**client, &*plan); !moved.ok()) return Error(moved.WithContext("--lease"));
  }

  const LoadReport report = MakeReport(*plan, RunLoad(**client, *plan, StopOnSignal(), ProgressPrinter()));
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
