#include "controller/config/config_json.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "controller/config/overrides.h"

namespace abacus {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kNsPerMs = 1'000'000;
constexpr uint64_t kNsPerS = 1'000'000'000;

// In the unit of the file: an integer where the value is one.
Json Scaled(uint64_t value, uint64_t scale) {
  if (value % scale == 0) return value / scale;
  return static_cast<double>(value) / static_cast<double>(scale);
}

Json ServerJson(const ServerConfig& server) {
  return {{"name", server.name},
          {"listen", server.listen},
          {"ipc", server.ipc},
          {"leases", server.leases},
          {"io_threads", server.io_threads},
          {"intake_threads", server.intake_threads},
          {"arena_mib", Scaled(server.arena_bytes, kMiB)},
          {"log_level", server.log_level},
          {"drain_timeout_ms", Scaled(server.drain_timeout_ns, kNsPerMs)}};
}

Json LimitsJson(const LimitsConfig& limits) {
  return {{"max_frame_mib", Scaled(limits.max_frame_bytes, kMiB)},
          {"max_message_mib", Scaled(limits.max_message_bytes, kMiB)},
          {"max_frames", limits.max_frames},
          {"max_client_mib", Scaled(limits.max_client_bytes, kMiB)},
          {"max_client_queries", limits.max_client_queries},
          {"max_clients", limits.max_clients},
          {"max_queries", limits.max_queries}};
}

Json SchedulerJson(const SchedulerConfig& scheduler) {
  return {{"policy", scheduler.policy},
          {"packing", std::string(kPackingNames[static_cast<size_t>(scheduler.packing)])},
          {"batching", std::string(kBatchingNames[static_cast<size_t>(scheduler.batching)])},
          {"max_queue_delay_us", scheduler.max_queue_delay_us},
          {"predictor", scheduler.predictor.empty() ? std::string(kNoPredictor) : scheduler.predictor.string()},
          {"margin", scheduler.margin ? Json(*scheduler.margin) : Json(nullptr)},
          {"lead_us", scheduler.lead_us},
          {"trace_events", scheduler.trace_events},
          {"abandon", scheduler.abandon},
          {"spin_us", scheduler.spin_us}};
}

Json WorkerJson(const WorkerConfig& worker) {
  return {{"device", std::string(NameOf(worker.device))},
          {"gpu", worker.gpus},
          {"cpu_threads", worker.cpu_threads},
          {"load_timeout_s", Scaled(worker.load_timeout_ns, kNsPerS)},
          {"round_timeout_ms", Scaled(worker.round_timeout_ns, kNsPerMs)},
          {"mps", worker.mps},
          {"max_restarts_per_minute", worker.max_restarts_per_minute},
          {"gate", worker.gate},
          {"gpu_timestamps", worker.gpu_timestamps}};
}

Json ServiceJson(const ServiceConfig& service) {
  return {{"name", service.name},
          {"model", service.model.string()},
          {"qos_ms", Scaled(service.qos_ns, kNsPerMs)},
          {"queue_limit", service.queue_limit},
          {"max_batch", service.max_batch},
          {"gpu", service.gpu}};
}

}  // namespace

Json ToJson(const Config& config) {
  Json services = Json::array();
  for (const ServiceConfig& service : config.services) services.push_back(ServiceJson(service));
  return {{"server", ServerJson(config.server)},
          {"limits", LimitsJson(config.limits)},
          {"scheduler", SchedulerJson(config.scheduler)},
          {"worker", WorkerJson(config.worker)},
          {"service", std::move(services)}};
}

std::string ToJsonText(const Config& config, const std::filesystem::path& run_directory) {
  Json json = ToJson(config);
  json["run_dir"] = run_directory.string();
  return json.dump(2, ' ', false, Json::error_handler_t::replace);  // names of files may hold any bytes
}

}  // namespace abacus
