// Any bytes as a configuration, and what follows a NUL as command-line settings, one a line: an error that names its
// place or a valid configuration, never a crash. The bytes are read as a duration, too: what is one has a text that
// says the same. Relative model paths start in configs/, so that valid ones exist.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/duration.h"
#include "controller/config/config.h"
#include "models/tensor_layout.h"
#include "shm/layout.h"

namespace {

void CheckDuration(std::string_view text) {
  const auto ns = abacus::ParseDuration(text);
  if (ns && abacus::ParseDuration(abacus::FormatDuration(*ns)).value_or(*ns + 1) != *ns) std::abort();
  if (!ns && ns.error().message().empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  CheckDuration(text);
  std::vector<std::string> overrides;
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    std::string_view rest = text.substr(nul + 1);
    text = text.substr(0, nul);
    while (!rest.empty() && overrides.size() < 16) {
      const size_t end = rest.find('\n');
      overrides.emplace_back(rest.substr(0, end));
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    }
  }
  const auto config = abacus::ParseConfig(text, ABACUS_SOURCE_DIR "/configs/fuzz.toml", overrides);
  if (!config) {
    const std::string& message = config.error().message();
    if (!message.starts_with(ABACUS_SOURCE_DIR "/configs/fuzz.toml:") && !message.starts_with("--set ")) std::abort();
    return 0;
  }
  if (config->services.empty() || config->services.size() > abacus::kMaxServices) std::abort();
  for (const abacus::ServiceConfig& service : config->services) {
    const abacus::TensorLayout layout =
        abacus::LayoutOf(service.spec, service.spec.bucket(service.spec.bucket_count() - 1));
    if (service.qos_ns == 0 || layout.total_bytes > config->server.arena_bytes) std::abort();
  }
  return 0;
}
