#include "controller/schedule/hopeless.h"

#include <fmt/format.h>

#include "base/clock.h"

namespace abacus {

std::string MsText(uint64_t ns) {
  const uint64_t hundredths = ns / (10 * kNsPerUs);
  return fmt::format("{}.{:02} ms", hundredths / 100, hundredths % 100);
}

std::optional<Status> WhyHopeless(const WaitingQuery& query, uint64_t rest_ns, uint64_t start_ns, uint64_t now_ns) {
  const uint64_t target_ns = query.deadline_ns - query.arrival_ns;
  if (query.due_ns() < now_ns) {
    return Status(StatusCode::kDeadlineExceeded,
                  fmt::format("waited {}, its target was {}", MsText(now_ns - query.arrival_ns), MsText(target_ns)));
  }
  if (!query.probe() && start_ns + rest_ns > query.deadline_ns) {
    return Status(StatusCode::kDeadlineUnreachable,
                  fmt::format("predicted latency {}, its target is {}", MsText(start_ns - query.arrival_ns + rest_ns),
                              MsText(target_ns)));
  }
  return std::nullopt;
}

}  // namespace abacus
