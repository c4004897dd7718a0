// abacus-status: reads a running controller's segment from outside, read-only, and prints one row per service.
// Exit codes: 0 the controller runs; 3 there is none of that name (or it is gone); 1 the segment cannot be read.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "controller/schedule/adaptive_margin.h"
#include "shm/region.h"

namespace abacus {
namespace {

constexpr double kMarginBaseMs = AdaptiveMargin::kBaseNs * 1e-6;

struct ServiceRow {
  std::string service, state, device, gpu, error;
  int32_t pid = 0;
  uint32_t lane = 0, worker = 0, generation = 0;
  uint64_t queued = 0, running = 0, served = 0, failed = 0, violations = 0, restarts = 0, ranges = 0;
  uint64_t jobs = 0, job_rows = 0, job_queries = 0, padding_rows = 0;
  uint64_t p50_us = 0, p99_us = 0;
  double heartbeat_age_s = 0;
  bool refused = false;  // down for good: its model is not one that can be served

  double rows_per_job() const { return PerJob(job_rows); }
  double queries_per_job() const { return PerJob(job_queries); }
  // The share of rows that only filled a bucket up.
  double padding() const {
    const uint64_t all = job_rows + padding_rows;
    return all == 0 ? 0 : static_cast<double>(padding_rows) / static_cast<double>(all);
  }

 private:
  double PerJob(uint64_t count) const { return jobs == 0 ? 0 : static_cast<double>(count) / static_cast<double>(jobs); }
};

// Quantile of the latency histogram: the upper edge of the bucket where it falls.
uint64_t QuantileUs(const ServiceStats& stats, double quantile) {
  uint64_t total = 0;
  for (const auto& count : stats.latency) total += count.load(std::memory_order_relaxed);
  if (total == 0) return 0;
  const auto target = static_cast<uint64_t>(quantile * static_cast<double>(total));
  uint64_t seen = 0;
  for (size_t i = 0; i < kLatencyBuckets; ++i) {
    seen += stats.latency[i].load(std::memory_order_relaxed);
    if (seen > target) return LatencyBucketUpperUs(i);
  }
  return LatencyBucketUpperUs(kLatencyBuckets - 1);
}

ServiceRow ReadRow(const Region& region, ServiceId id, uint64_t now_ns) {
  ServiceRow row;
  const ServiceBlock& service = region.service(id);
  row.worker = std::min<uint32_t>(service.worker.load(std::memory_order_relaxed), kMaxWorkers - 1);
  const WorkerSlot& slot = region.worker(WorkerId(row.worker));
  const auto state = static_cast<WorkerState>(slot.state.load(std::memory_order_acquire));
  const ServiceStats& stats = service.stats;
  row.service = LoadText(service.name);
  row.state = WorkerStateName(state);
  row.device = LoadText(slot.device);
  row.lane = std::min<uint32_t>(slot.lane, kMaxLanes - 1);
  row.gpu = LoadText(region.lane(LaneId(row.lane)).gpu);
  // Behind an MPS daemon that has one GPU a worker sees that one as the first, whatever its number is.
  if (row.device.starts_with("cuda:")) row.device = "cuda:" + row.gpu;
  row.generation = slot.generation.load(std::memory_order_relaxed);
  if (state == WorkerState::kFailed || state == WorkerState::kExited) row.error = LoadText(slot.error);
  const auto code = static_cast<StatusCode>(slot.error_code.load(std::memory_order_relaxed));
  row.refused =
      state == WorkerState::kFailed && (code == StatusCode::kInvalidArgument || code == StatusCode::kNotFound);
  row.pid = slot.pid.load(std::memory_order_relaxed);
  row.queued = stats.queued.load(std::memory_order_relaxed);
  row.running = stats.running.load(std::memory_order_relaxed);
  row.served = stats.replies[0].load(std::memory_order_relaxed);
  for (size_t i = 1; i < kWireStatusCount; ++i) row.failed += stats.replies[i].load(std::memory_order_relaxed);
  row.violations = stats.violations.load(std::memory_order_relaxed);
  row.restarts = stats.restarts.load(std::memory_order_relaxed);
  row.ranges = stats.ranges.load(std::memory_order_relaxed);
  row.jobs = stats.jobs.load(std::memory_order_relaxed);
  row.job_rows = stats.job_rows.load(std::memory_order_relaxed);
  row.job_queries = stats.job_queries.load(std::memory_order_relaxed);
  row.padding_rows = stats.padding_rows.load(std::memory_order_relaxed);
  row.p50_us = QuantileUs(stats, 0.50);
  row.p99_us = QuantileUs(stats, 0.99);
  const uint64_t beat_ns = slot.heartbeat_ns.load(std::memory_order_relaxed);
  row.heartbeat_age_s = beat_ns == 0 || beat_ns > now_ns ? 0 : static_cast<double>(now_ns - beat_ns) * 1e-9;
  return row;
}

double Percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
}

// 12345 as 12,345.
std::string Grouped(uint64_t number) {
  std::string text = std::to_string(number);
  for (size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

// Read once: the figures go on changing.
struct PredictorView {
  explicit PredictorView(const PredictorStats& stats)
      : description(LoadText(stats.description)),
        trained(stats.trained.load(std::memory_order_relaxed) != 0),
        margin_ppm(stats.margin_ppm.load(std::memory_order_relaxed)),
        error_ppm(stats.error_ppm.load(std::memory_order_relaxed)),
        rounds(stats.rounds.load(std::memory_order_relaxed)),
        rounds_over(stats.rounds_over.load(std::memory_order_relaxed)),
        rounds_several(stats.rounds_several.load(std::memory_order_relaxed)),
        rounds_untrained(stats.rounds_untrained.load(std::memory_order_relaxed)),
        start_us(static_cast<double>(stats.start_ns.load(std::memory_order_relaxed)) * 1e-3) {
    for (size_t i = 0; i < factors.size(); ++i) {
      const uint32_t ppm = stats.factor_ppm[i].load(std::memory_order_relaxed);
      factors[i] = ppm == 0 ? 1 : ppm * 1e-6;
    }
  }

  const std::string description;
  const bool trained;
  const uint32_t margin_ppm, error_ppm;
  const uint64_t rounds, rounds_over, rounds_several, rounds_untrained;
  const double start_us;
  std::array<double, std::tuple_size_v<decltype(PredictorStats::factor_ppm)>> factors{};
};

void PrintPredictor(const PredictorView& predictor) {
  fmt::print("predictor: {}\n", predictor.description.empty() ? "not loaded yet" : predictor.description);
  if (predictor.rounds == 0) {
    fmt::print("no predicted rounds yet\n");
    return;
  }
  fmt::print(
      "margin {:.1f} % of time + {:.1f} ms, error {:.1f} % over {} rounds ({} of several ranges), {:.1f} % over "
      "prediction plus margin, {} by the additive model\n",
      predictor.margin_ppm * 1e-4, kMarginBaseMs, predictor.error_ppm * 1e-4, Grouped(predictor.rounds),
      Grouped(predictor.rounds_several), Percent(predictor.rounds_over, predictor.rounds),
      Grouped(predictor.rounds_untrained));
  fmt::print(
      "predictions corrected by {:.3f} (by ranges: 1, 2, 3, 4 and more); a start on an idle GPU costs {:.0f} us\n",
      fmt::join(predictor.factors, " "), predictor.start_us);
}

void PrintTable(const std::string& name, const Region& region, const std::vector<ServiceRow>& rows, uint64_t now_ns) {
  const SegmentHeader& header = region.header();
  fmt::print("controller {} (pid {}, policy {}{}) at {}, up {:.0f} s\n", name, header.owner_pid,
             LoadText(header.policy), header.draining.load() != 0 ? ", draining" : "", LoadText(header.endpoint),
             static_cast<double>(now_ns - header.started_ns) * 1e-9);
  fmt::print(
      "arena {:.1f} of {} MiB used; refused messages {}, replies to vanished clients {}, closed connections {}\n",
      static_cast<double>(header.arena_used_bytes.load()) / (1 << 20), header.arena_bytes >> 20,
      header.rejected_messages.load(), header.dropped_replies.load(), header.closed_connections.load());
  for (size_t i = 0; i < region.lane_count(); ++i) {
    const LaneBlock& lane = region.lane(LaneId(i));
    if (region.lane_count() > 1) fmt::print("GPU {}: ", LoadText(lane.gpu));
    PrintPredictor(PredictorView(lane.predictor));
  }
  fmt::print("{:<20} {:>8} {:<9} {:<7} {:>6} {:>7} {:>10} {:>8} {:>9} {:>9} {:>10} {:>8} {:>8} {:>11} {:>9}\n",
             "SERVICE", "PID", "STATE", "DEVICE", "QUEUE", "RUNNING", "SERVED", "FAILED", "P50 ms", "P99 ms",
             "VIOLATIONS", "RESTARTS", "ROWS/JOB", "QUERIES/JOB", "PADDING %");
  for (const ServiceRow& row : rows) {
    fmt::print(
        "{:<20} {:>8} {:<9} {:<7} {:>6} {:>7} {:>10} {:>8} {:>9.2f} {:>9.2f} {:>10} {:>8} {:>8.2f} {:>11.2f} "
        "{:>9.1f}\n",
        row.service, row.pid, row.state, row.device, row.queued, row.running, row.served, row.failed,
        static_cast<double>(row.p50_us) * 1e-3, static_cast<double>(row.p99_us) * 1e-3, row.violations, row.restarts,
        row.rows_per_job(), row.queries_per_job(), 100 * row.padding());
    if (!row.error.empty()) fmt::print("    {}\n", row.error);
  }
}

nlohmann::json PredictorJson(const PredictorView& view) {
  return {{"description", view.description},
          {"trained", view.trained},
          {"margin", view.margin_ppm / 1e6},
          {"error", view.error_ppm / 1e6},
          {"rounds", view.rounds},
          {"rounds_over", view.rounds_over},
          {"rounds_several", view.rounds_several},
          {"rounds_untrained", view.rounds_untrained},
          {"factors", view.factors},
          {"start_us", view.start_us}};
}

void PrintJson(const std::string& name, const Region& region, const std::vector<ServiceRow>& rows, uint64_t now_ns) {
  const SegmentHeader& header = region.header();
  nlohmann::json services = nlohmann::json::array();
  for (const ServiceRow& row : rows) {
    services.push_back({{"service", row.service},
                        {"pid", row.pid},
                        {"state", row.state},
                        {"device", row.device},
                        {"lane", row.lane},
                        {"gpu", row.gpu},
                        {"worker", row.worker},
                        {"generation", row.generation},
                        {"queued", row.queued},
                        {"running", row.running},
                        {"served", row.served},
                        {"failed", row.failed},
                        {"violations", row.violations},
                        {"restarts", row.restarts},
                        {"ranges", row.ranges},
                        {"jobs", row.jobs},
                        {"rows_per_job", row.rows_per_job()},
                        {"queries_per_job", row.queries_per_job()},
                        {"padding", row.padding()},
                        {"p50_us", row.p50_us},
                        {"p99_us", row.p99_us},
                        {"heartbeat_age_s", row.heartbeat_age_s},
                        {"refused", row.refused},
                        {"error", row.error}});
  }
  nlohmann::json lanes = nlohmann::json::array();
  for (size_t i = 0; i < region.lane_count(); ++i) {
    const LaneBlock& lane = region.lane(LaneId(i));
    lanes.push_back({{"gpu", LoadText(lane.gpu)}, {"predictor", PredictorJson(PredictorView(lane.predictor))}});
  }
  const nlohmann::json out = {{"name", name},
                              {"pid", header.owner_pid},
                              {"policy", LoadText(header.policy)},
                              {"endpoint", LoadText(header.endpoint)},
                              {"draining", header.draining.load() != 0},
                              {"uptime_s", static_cast<double>(now_ns - header.started_ns) * 1e-9},
                              {"arena_bytes", header.arena_bytes},
                              {"arena_used_bytes", header.arena_used_bytes.load()},
                              {"rejected_messages", header.rejected_messages.load()},
                              {"dropped_replies", header.dropped_replies.load()},
                              {"closed_connections", header.closed_connections.load()},
                              {"predictor", lanes.front()["predictor"]},
                              {"lanes", lanes},
                              {"services", services}};
  fmt::print("{}\n", out.dump(2));
}

int Main(int argc, char** argv) {
  CLI::App app("Shows the services of a running Abacus controller");
  std::string name = "default";
  bool json = false;
  app.add_option("--name", name, "[server] name of the controller");
  app.add_flag("--json", json, "Machine-readable output");
  CLI11_PARSE(app, argc, argv);

  auto region = Region::Open(name, Region::Access::kReadOnly, 500 * kNsPerMs);
  if (!region) {
    fmt::print(stderr, "abacus-status: {}\n", region.error().message());
    return region.error().code() == StatusCode::kNotFound ? 3 : 1;
  }
  const SegmentHeader& header = (*region)->header();
  if (!OwnerAlive(header)) {
    fmt::print(stderr,
               "abacus-status: the controller '{}' (pid {}) is gone; its segment will be replaced at the next "
               "start\n",
               name, header.owner_pid);
    return 3;
  }
  const uint64_t now_ns = MonotonicNs();
  std::vector<ServiceRow> rows;
  for (size_t i = 0; i < (*region)->service_count(); ++i) rows.push_back(ReadRow(**region, ServiceId(i), now_ns));
  json ? PrintJson(name, **region, rows, now_ns) : PrintTable(name, **region, rows, now_ns);
  return 0;
}

}  // namespace
}  // namespace abacus

int main(int argc, char** argv) { return abacus::Main(argc, argv); }
