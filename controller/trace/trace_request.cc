#include "controller/trace/trace_request.h"

#include <sys/resource.h>

#include "base/log.h"

namespace abacus {

void TraceRequest::Request() {
  // Not by the writer: copying holds the recorder's lock, and the writer's priority is low.
  std::vector<TraceEvent> events = recorder_->Copy();
  const std::lock_guard lock(mutex_);
  requested_ = std::move(events);
  if (writing_) return;
  writing_ = true;
  thread_ = std::jthread([this] { WriteRequested(); });
}

void TraceRequest::WriteRequested() {
  setpriority(PRIO_PROCESS, 0, 10);  // of this thread: queries go first
  for (;;) {
    std::vector<TraceEvent> events;
    {
      const std::lock_guard lock(mutex_);
      writing_ = requested_.has_value();
      if (!writing_) return;
      events = *std::exchange(requested_, std::nullopt);
    }
    if (const Status status = WriteTrace(events, subject_, path_); status.ok()) {
      LogInfo("wrote {} events to {}", events.size(), path_.string());
    } else {
      LogError("{}", status.message());
    }
  }
}

}  // namespace abacus
