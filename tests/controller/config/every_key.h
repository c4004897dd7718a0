// A configuration with every key, which the tests of the configuration take apart.
#ifndef ABACUS_TESTS_CONTROLLER_CONFIG_EVERY_KEY_H_
#define ABACUS_TESTS_CONTROLLER_CONFIG_EVERY_KEY_H_

#include <filesystem>
#include <string>
#include <string_view>

namespace abacus {

// Errors name this file; relative model paths start at its folder.
inline const std::filesystem::path kPath = std::filesystem::path(ABACUS_SOURCE_DIR) / "configs" / "test.toml";

// Every key, one a line, none at its default; line numbers in tests count from the line after R"(. Durations stand
// under the keys for numbers, as the JSON of --check has them; CanonicalKey gives the key of the shipped files.
inline constexpr std::string_view kText = R"([server]
name = "unit"
listen = ["tcp://127.0.0.1:7000", "tcp://[::1]:*"]
ipc = false
leases = false
io_threads = 2
intake_threads = 5
arena_mib = 64
log_level = "debug"
drain_timeout_ms = 250.5
[limits]
max_frame_mib = 8
max_message_mib = 16
max_frames = 5
max_client_mib = 32
max_client_queries = 10
max_clients = 20
max_queries = 30
[scheduler]
policy = "edf"
packing = "furthest"
batching = "off"
max_queue_delay_us = 13
predictor = "unit.predictor"
margin = 0.25
lead_us = 11
trace_events = 12
abandon = false
spin_us = 7
[worker]
device = "fake"
gpu = [1, "GPU-5"]
cpu_threads = 3
load_timeout_s = 1.5
round_timeout_ms = 99
mps = false
max_restarts_per_minute = 0
gate = "host"
gpu_timestamps = true
[[service]]
name = "text"
model = "fake/fake-text.toml"
qos_ms = 12.5
queue_limit = 17
max_batch = 3
gpu = "GPU-5"
[[service]]
name = "image"
model = "fake/fake-image.toml"
)";

inline std::string CanonicalKey(const std::string& key) {
  for (const char* duration : {"drain_timeout_ms", "max_queue_delay_us", "lead_us", "spin_us", "load_timeout_s",
                               "round_timeout_ms", "qos_ms"}) {
    if (key == duration) return key.substr(0, key.rfind('_'));
  }
  return key;
}

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_CONFIG_EVERY_KEY_H_
