#include "controller/config/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "client/protocol.h"
#include "controller/config/overrides.h"
#include "models/tensor_layout.h"
#include "models/toml_reader.h"
#include "shm/layout.h"

namespace abacus {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kNsPerMinute = 60 * kNsPerSecond;
constexpr uint64_t kNsPerHour = 60 * kNsPerMinute;
constexpr size_t kMaxServerNameBytes = 32;   // RUN_DIR/NAME/controller.ipc must fit a socket address of 107 bytes
constexpr size_t kMaxServiceNameBytes = 63;  // with its NUL it fits ServiceBlock::name
constexpr size_t kMaxListen = 16;
constexpr uint32_t kSpinUs = 50;
constexpr int64_t kHighestMaxBatch = 65536;  // a model may have no larger batch sizes either

static_assert(kMaxServiceNameBytes < sizeof(ServiceBlock::name));
static_assert(kMaxServiceNameBytes <= protocol::kMaxNameBytes);

// tcp://HOST:PORT, where PORT is a number or * (any free one), and an IPv6 address stands in brackets.
bool IsTcpEndpoint(std::string_view endpoint) {
  constexpr std::string_view kScheme = "tcp://";
  if (!endpoint.starts_with(kScheme) || endpoint.size() > 100) return false;
  const std::string_view rest = endpoint.substr(kScheme.size());
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  const std::string_view host = rest.substr(0, colon);
  const bool in_brackets = host.starts_with('[') && host.ends_with(']');
  if (!in_brackets && host.find(':') != std::string_view::npos) return false;
  if (!std::all_of(host.begin(), host.end(), [](char c) { return c > ' ' && c <= '~' && c != '/'; })) return false;
  const std::string_view port = rest.substr(colon + 1);
  if (port == "*") return true;
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  return error == std::errc() && end == port.data() + port.size() && number <= 65535;
}

Status ReadServer(TableReader reader, ServerConfig* server) {
  reader.Name("name", NameKind::kFile, kMaxServerNameBytes, &server->name);
  if (reader.Strings("listen", &server->listen)) {
    std::set<std::string> seen;
    if (server->listen.size() > kMaxListen) {
      reader.Fail("listen", "at most " + std::to_string(kMaxListen) + " endpoints are allowed");
    }
    for (const std::string& endpoint : server->listen) {
      if (!IsTcpEndpoint(endpoint)) {
        reader.Fail("listen",
                    "an endpoint must be \"tcp://HOST:PORT\" (PORT 0 to 65535, or * for any free one; an "
                    "IPv6 address in brackets), not " +
                        Quoted(endpoint) + "; for a local socket set ipc = true");
      } else if (!seen.insert(endpoint).second) {
        reader.Fail("listen", Quoted(endpoint) + " stands twice");
      }
    }
  }
  reader.Bool("ipc", &server->ipc);
  reader.Bool("leases", &server->leases);
  reader.Integer("io_threads", 1, 16, &server->io_threads);
  reader.Integer("intake_threads", 1, 16, &server->intake_threads);
  reader.ScaledInteger("arena_mib", 1, 1 << 20, kMiB, &server->arena_bytes);
  size_t level = 0;
  if (reader.OneOf("log_level", kLogLevels, &level)) server->log_level = kLogLevels[level];
  reader.Duration("drain_timeout", {.unit = "ms", .high_ns = kNsPerHour}, &server->drain_timeout_ns);
  ABACUS_RETURN_IF_ERROR(reader.Finish());
  if (server->listen.empty() && !server->ipc) reader.Fail("listen", "must not be empty when ipc = false");
  return reader.Finish();
}

Status ReadLimits(TableReader reader, LimitsConfig* limits) {
  reader.ScaledInteger("max_frame_mib", 1, 4096, kMiB, &limits->max_frame_bytes);
  reader.ScaledInteger("max_message_mib", 1, 65536, kMiB, &limits->max_message_bytes);
  reader.Integer("max_frames", 2, protocol::kMaxTensors + 1, &limits->max_frames);
  reader.ScaledInteger("max_client_mib", 1, 1 << 20, kMiB, &limits->max_client_bytes);
  reader.Integer("max_client_queries", 1, 1 << 20, &limits->max_client_queries);
  reader.Integer("max_clients", 1, 65536, &limits->max_clients);
  reader.Integer("max_queries", 1, 1 << 24, &limits->max_queries);
  ABACUS_RETURN_IF_ERROR(reader.Finish());  // a misspelt key is the likelier cause of a contradiction
  const auto mib = [](uint64_t bytes) { return std::to_string(bytes / kMiB); };
  if (limits->max_frame_bytes > limits->max_message_bytes) {
    reader.Fail(reader.has("max_message_mib") ? "max_message_mib" : "max_frame_mib",
                "max_message_mib (" + mib(limits->max_message_bytes) + ") must be at least max_frame_mib (" +
                    mib(limits->max_frame_bytes) + ")");
  }
  if (limits->max_message_bytes > limits->max_client_bytes) {
    reader.Fail(reader.has("max_client_mib") ? "max_client_mib" : "max_message_mib",
                "max_client_mib (" + mib(limits->max_client_bytes) + ") must be at least max_message_mib (" +
                    mib(limits->max_message_bytes) + ")");
  }
  return reader.Finish();
}

// `spin_ns` is kAutoDuration where the file leaves the choice to us; ResolveSpin decides once the services are known.
Status ReadScheduler(TableReader reader, const std::filesystem::path& folder, SchedulerConfig* scheduler,
                     uint64_t* spin_ns) {
  size_t policy = 0;
  if (reader.OneOf("policy", kPolicyNames, &policy)) scheduler->policy = kPolicyNames[policy];
  size_t packing = 0;
  if (reader.OneOf("packing", kPackingNames, &packing)) scheduler->packing = static_cast<Packing>(packing);
  size_t batching = 0;
  if (reader.OneOf("batching", kBatchingNames, &batching)) scheduler->batching = static_cast<Batching>(batching);
  uint64_t delay_ns = 0;
  if (reader.Duration("max_queue_delay", {.unit = "us", .high_ns = kNsPerSecond, .step_ns = kNsPerUs}, &delay_ns)) {
    scheduler->max_queue_delay_us = static_cast<uint32_t>(delay_ns / kNsPerUs);
  }
  std::string predictor(kNoPredictor);
  reader.String("predictor", &predictor);
  if (predictor != kNoPredictor) scheduler->predictor = (folder / predictor).lexically_normal();
  double margin = 0;
  if (reader.Number("margin", kLowestMargin, kHighestMargin, &margin)) scheduler->margin = margin;
  uint64_t lead_ns = 0;
  if (reader.Duration("lead", {.unit = "us", .high_ns = 100 * kNsPerMs, .step_ns = kNsPerUs}, &lead_ns)) {
    scheduler->lead_us = static_cast<uint32_t>(lead_ns / kNsPerUs);
  }
  reader.Integer("trace_events", 0, 10'000'000, &scheduler->trace_events);
  reader.Bool("abandon", &scheduler->abandon);
  reader.Duration("spin", {.unit = "us", .high_ns = kNsPerSecond, .step_ns = kNsPerUs, .may_be_auto = true}, spin_ns);
  return reader.Finish();
}

Status ReadWorker(TableReader reader, WorkerConfig* worker) {
  size_t device = 0;
  if (reader.OneOf("device", kDeviceNames, &device)) worker->device = static_cast<DeviceKind>(device);
  reader.Devices("gpu", 63, &worker->gpus);
  if (worker->gpus.size() > kMaxLanes) {
    reader.Fail("gpu", "at most " + std::to_string(kMaxLanes) + " GPUs are allowed");
  }
  for (size_t i = 1; i < worker->gpus.size(); ++i) {
    if (std::find(worker->gpus.begin(), worker->gpus.begin() + static_cast<std::ptrdiff_t>(i), worker->gpus[i]) !=
        worker->gpus.begin() + static_cast<std::ptrdiff_t>(i)) {
      reader.Fail("gpu", Quoted(worker->gpus[i]) + " stands twice");
    }
  }
  reader.Integer("cpu_threads", 1, 256, &worker->cpu_threads);
  reader.Duration("load_timeout", {.unit = "s", .low_ns = 100 * kNsPerMs, .high_ns = 24 * kNsPerHour},
                  &worker->load_timeout_ns);
  reader.Duration("round_timeout", {.unit = "ms", .low_ns = kNsPerMs, .high_ns = kNsPerHour},
                  &worker->round_timeout_ns);
  reader.Bool("mps", &worker->mps);
  reader.Integer("max_restarts_per_minute", 0, 600, &worker->max_restarts_per_minute);
  size_t gate = 0;
  if (reader.OneOf("gate", kGateNames, &gate)) worker->gate = kGateNames[gate];
  reader.Bool("gpu_timestamps", &worker->gpu_timestamps);
  return reader.Finish();
}

// Everything that a query of this model needs must fit the limits; otherwise some bucket could never serve.
void CheckFits(TableReader* reader, const ModelSpec& spec, const ServerConfig& server, const LimitsConfig& limits) {
  const TensorLayout layout = LayoutOf(spec, spec.bucket(spec.bucket_count() - 1));
  const auto mib = [](uint64_t bytes) { return std::to_string((bytes + kMiB - 1) / kMiB); };
  if (layout.total_bytes > server.arena_bytes) {
    reader->Fail("model", "the largest bucket of " + Quoted(spec.name) + " takes " + mib(layout.total_bytes) +
                              " MiB but server.arena_mib is " + mib(server.arena_bytes));
  }
  uint64_t message_bytes = 0;
  for (size_t i = 0; i < layout.inputs.size(); ++i) {
    message_bytes += layout.inputs[i].bytes;
    if (layout.inputs[i].bytes > limits.max_frame_bytes) {
      reader->Fail("model", "input " + Quoted(spec.inputs[i].name) + " of the largest bucket takes " +
                                mib(layout.inputs[i].bytes) + " MiB but limits.max_frame_mib is " +
                                mib(limits.max_frame_bytes));
    }
  }
  if (message_bytes + protocol::kMaxHeaderBytes > limits.max_message_bytes) {
    reader->Fail("model", "the inputs of the largest bucket take " + mib(message_bytes) +
                              " MiB with their header, but limits.max_message_mib is " + mib(limits.max_message_bytes));
  }
  if (spec.inputs.size() + 1 > limits.max_frames) {
    reader->Fail("model", "a query has " + std::to_string(spec.inputs.size() + 1) +
                              " frames (header and inputs) but limits.max_frames is " +
                              std::to_string(limits.max_frames));
  }
}

void CheckMaxBatch(TableReader* reader, const ServiceConfig& service) {
  const int64_t largest = service.spec.batch_sizes.back();
  if (service.max_batch > largest) {
    reader->Fail("max_batch", "must be at most " + std::to_string(largest) + ", the largest batch that " +
                                  Quoted(service.spec.name) + " was exported with, not " +
                                  std::to_string(service.max_batch) + "; leave it out for the largest");
  }
}

Result<ServiceConfig> ReadService(TableReader reader, const Config& config, const std::filesystem::path& folder,
                                  ModelFiles model_files) {
  ServiceConfig service;
  reader.Name("name", NameKind::kService, kMaxServiceNameBytes, &service.name);
  reader.Require("name", "clients ask for the service by it");
  for (const ServiceConfig& other : config.services) {
    if (other.name == service.name) {
      reader.Fail("name", Quoted(service.name) + " is already the name of another service");
    }
  }
  std::string model;
  reader.String("model", &model);
  reader.Require("model", "the path of its NAME.toml, relative to this file");
  reader.Duration("qos", {.unit = "ms", .low_ns = kNsPerUs, .high_ns = kNsPerHour}, &service.qos_ns);
  reader.Integer("queue_limit", 1, 1 << 20, &service.queue_limit);
  reader.Integer("max_batch", 0, kHighestMaxBatch, &service.max_batch);
  std::vector<std::string> gpu = {config.worker.gpus.front()};
  reader.Devices("gpu", 63, &gpu);
  if (gpu.size() != 1 ||
      std::find(config.worker.gpus.begin(), config.worker.gpus.end(), gpu[0]) == config.worker.gpus.end()) {
    reader.Fail("gpu", "must be one of the GPUs of worker.gpu");
  }
  service.gpu = gpu[0];
  ABACUS_RETURN_IF_ERROR(reader.Finish());

  service.model = (folder / model).lexically_normal();
  if (model_files == ModelFiles::kSkip) return service;
  Result<ModelSpec> spec = LoadModelSpec(service.model);
  if (!spec) {
    const bool missing = spec.error().code() == StatusCode::kNotFound;
    reader.Fail("model", spec.error().message() + (missing ? "; models/export.py writes model files" : ""));
    return Error(spec.error().code(), reader.Finish().message());
  }
  service.spec = std::move(*spec);
  CheckFits(&reader, service.spec, config.server, config.limits);
  CheckMaxBatch(&reader, service);
  ABACUS_RETURN_IF_ERROR(reader.Finish());
  return service;
}

uint32_t ResolveSpin(uint64_t spin_ns, const Config& config) {
  if (spin_ns != kAutoDuration) return static_cast<uint32_t>(spin_ns / kNsPerUs);
  // Spinning pays only when every worker, the scheduler and the front end have a core each.
  const bool cores_to_spare = std::thread::hardware_concurrency() >= config.services.size() + 2;
  return cores_to_spare ? kSpinUs : 0;
}

}  // namespace

int DefaultIntakeThreads() { return std::thread::hardware_concurrency() >= 4 ? 2 : 1; }

Result<Config> ParseConfig(std::string_view text, const std::filesystem::path& path,
                           const std::vector<std::string>& overrides, ModelFiles model_files) {
  const std::string source = path.string();
  Result<toml::table> document = ParseToml(text, source);
  if (!document) return Error(document.error());
  for (const std::string& setting : overrides) ABACUS_RETURN_IF_ERROR(ApplyOverride(setting, &*document));

  Config config;
  config.path = std::filesystem::absolute(path).lexically_normal();
  TableReader root(&*document, "", source);
  TableReader server = root.Table("server");
  TableReader limits = root.Table("limits");
  TableReader scheduler = root.Table("scheduler");
  TableReader worker = root.Table("worker");
  std::vector<TableReader> services = root.Tables("service", kMaxServices);
  root.Require("service", "a configuration needs at least one [[service]]");
  ABACUS_RETURN_IF_ERROR(root.Finish());
  if (services.empty()) root.Fail("service", "a configuration needs at least one [[service]]");
  ABACUS_RETURN_IF_ERROR(root.Finish());

  uint64_t spin_ns = kAutoDuration;
  ABACUS_RETURN_IF_ERROR(ReadServer(std::move(server), &config.server));
  ABACUS_RETURN_IF_ERROR(ReadLimits(std::move(limits), &config.limits));
  ABACUS_RETURN_IF_ERROR(ReadScheduler(std::move(scheduler), config.path.parent_path(), &config.scheduler, &spin_ns));
  ABACUS_RETURN_IF_ERROR(ReadWorker(std::move(worker), &config.worker));
  for (TableReader& reader : services) {
    Result<ServiceConfig> service = ReadService(std::move(reader), config, config.path.parent_path(), model_files);
    if (!service) return Error(service.error());
    config.services.push_back(std::move(*service));
  }
  config.scheduler.spin_us = ResolveSpin(spin_ns, config);
  return config;
}

Result<Config> LoadConfig(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                          ModelFiles model_files) {
  const Result<std::string> text = ReadTomlFile(path);
  if (!text) return Error(text.error());
  return ParseConfig(*text, path, overrides, model_files);
}

}  // namespace abacus
