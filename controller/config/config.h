// Configuration of a controller: one TOML file, validated whole before anything starts.
//
// configs/default.toml explains every key with unit, default and consequence; this header only names the fields.
// Unknown keys, wrong types and values out of bounds are errors that name file, line and key. A duration is a text with
// its unit (qos = "50ms"), or a number under the key with the unit in its name (qos_ms = 50).
// Thread rule: immutable after LoadConfig.
#ifndef ABACUS_CONTROLLER_CONFIG_CONFIG_H_
#define ABACUS_CONTROLLER_CONFIG_CONFIG_H_

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/model_spec.h"

namespace abacus {

// Threads that copy payloads unless the file says how many: 2 where the front end, the scheduler and they have a core
// each.
int DefaultIntakeThreads();

// What the keys of the file may say; enumerations are in the order of their names.
inline constexpr std::array<std::string_view, 8> kPolicyNames = {"abacus", "fcfs",  "sjf",        "edf",
                                                                 "free",   "delay", "delay-free", "clockwork"};
inline constexpr std::array<std::string_view, 2> kGateNames = {"device", "host"};
inline constexpr std::array<std::string_view, 5> kLogLevels = {"trace", "debug", "info", "warn", "error"};

// Bounds of the safety margin on predicted times, a share.
inline constexpr double kLowestMargin = 0.01;
inline constexpr double kHighestMargin = 0.5;

// How the policy "abacus" fills a round; see headroom_policy.h.
enum class Packing : uint8_t { kBalanced = 0, kFurthest };
inline constexpr std::array<std::string_view, 2> kPackingNames = {"balanced", "furthest"};

// Whether a job may hold several queries; which ones is the policy's business.
enum class Batching : uint8_t { kGreedy = 0, kOff };
inline constexpr std::array<std::string_view, 2> kBatchingNames = {"greedy", "off"};

enum class DeviceKind : uint8_t { kAuto = 0, kCpu, kCuda, kFake };  // kAuto: cuda where a GPU is found, else cpu
inline constexpr std::array<std::string_view, 4> kDeviceNames = {"auto", "cpu", "cuda", "fake"};
inline constexpr std::string_view NameOf(DeviceKind device) { return kDeviceNames[static_cast<size_t>(device)]; }

struct ServerConfig {            // [server]
  std::string name = "default";  // names the shared-memory segment and run files: [A-Za-z0-9_-]+
  std::vector<std::string> listen = {"tcp://127.0.0.1:5570"};  // ZeroMQ endpoints; see also ipc
  bool ipc = true;                              // also listen on RUN_DIR/NAME/controller.ipc (same user only)
  bool leases = true;                           // clients of the same user can lease memory for their tensors
  int io_threads = 1;                           // ZeroMQ I/O threads
  int intake_threads = DefaultIntakeThreads();  // that copy tensors between clients and the arena
  uint64_t arena_bytes = 256ull << 20;          // key arena_mib
  std::string log_level = "info";               // one of kLogLevels
  uint64_t drain_timeout_ns = 10'000'000'000;   // key drain_timeout
};

struct LimitsConfig {                         // [limits]
  uint64_t max_frame_bytes = 64ull << 20;     // key max_frame_mib
  uint64_t max_message_bytes = 128ull << 20;  // key max_message_mib
  uint32_t max_frames = 17;                   // header + kMaxTensors
  uint64_t max_client_bytes = 128ull << 20;   // key max_client_mib: accepted, not yet answered and read
  uint32_t max_client_queries = 4096;
  uint32_t max_clients = 1024;
  uint32_t max_queries = 16384;  // over all clients
};

struct SchedulerConfig {                  // [scheduler]
  std::string policy = "abacus";          // one of kPolicyNames
  Packing packing = Packing::kBalanced;   // abacus: how rounds are filled; "balanced" or "furthest"
  Batching batching = Batching::kGreedy;  // "greedy" or "off": one query a job, whatever the policy
  uint32_t max_queue_delay_us = 0;  // key max_queue_delay: how long "delay" and "delay-free" wait for a full batch
  std::filesystem::path predictor;  // absolute path of a predictor file; empty: sum of solo times
  std::optional<double> margin;     // safety margin to start with, a share; unset: from the predictor's own error
  uint32_t lead_us = 100;           // key lead: how long before a round's predicted end the next is planned
  uint32_t trace_events = 65536;    // rounds, ranges and queries kept for ./mps.sh trace
  bool abandon = true;              // answer hopeless queries at once instead of running them late
  uint32_t spin_us = 0;             // key spin: how long an idle scheduler and idle workers spin before they sleep;
                                    // "auto" (the default) = 50 when there are cores to spare, else 0
};

struct WorkerConfig {  // [worker]: defaults of every service
  DeviceKind device = DeviceKind::kAuto;
  std::vector<std::string> gpus = {"0"};       // key gpu: index or UUID of each GPU, a lane each; at most kMaxLanes
  int cpu_threads = 1;                         // intra-op threads of a CPU worker
  uint64_t load_timeout_ns = 300'000'000'000;  // key load_timeout
  uint64_t round_timeout_ns = 10'000'000'000;  // key round_timeout: a range that takes longer is a hang
  bool mps = true;                             // cuda only: require every worker to be a client of CUDA MPS
  uint32_t max_restarts_per_minute = 5;        // then the service stays down until the next minute
  std::string gate = "device";                 // device host; cuda only: where ranges wait that were sent ahead
  bool gpu_timestamps = false;                 // cuda only: record on the GPU when ranges begin and end
};

struct ServiceConfig {            // [[service]]
  std::string name;               // what clients ask for
  std::filesystem::path model;    // absolute path of NAME.toml
  uint64_t qos_ns = 100'000'000;  // key qos
  uint32_t queue_limit = 1024;    // queries waiting; more get OVERLOADED
  uint32_t max_batch = 0;         // rows of a job of several queries; 0: the largest bucket; 1: one query a job
  std::string gpu;                // one of WorkerConfig::gpus; the first where the file does not say
  ModelSpec spec;                 // parsed from `model`; empty with ModelFiles::kSkip
};

struct Config {
  std::filesystem::path path;
  ServerConfig server;
  LimitsConfig limits;
  SchedulerConfig scheduler;
  WorkerConfig worker;
  std::vector<ServiceConfig> services;  // 1 .. kMaxServices
};

// kSkip leaves the model files unread: for those who have yet to export them.
enum class ModelFiles : uint8_t { kRead = 0, kSkip };

// Reads and validates a configuration and the model specs that it names. `overrides` are "section.key=value" settings
// (value in TOML syntax; a bare word such as 50ms is taken as a string), applied as if they stood in the file, but for
// paths: they start at the working directory.
Result<Config> LoadConfig(const std::filesystem::path& path, const std::vector<std::string>& overrides = {},
                          ModelFiles model_files = ModelFiles::kRead);
// The same from text; `path` names the source in errors and anchors relative paths.
Result<Config> ParseConfig(std::string_view text, const std::filesystem::path& path,
                           const std::vector<std::string>& overrides = {}, ModelFiles model_files = ModelFiles::kRead);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_CONFIG_CONFIG_H_
