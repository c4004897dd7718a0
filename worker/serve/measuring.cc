#include "worker/serve/measuring.h"

#include "base/clock.h"
#include "shm/doorbell.h"
#include "shm/region.h"

namespace abacus {

void SetWorkerState(WorkerSlot* slot, WorkerState state) {
  slot->heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
  slot->state.store(static_cast<uint32_t>(state), std::memory_order_release);
}

bool AwaitTurn(WorkerSlot* slot, const std::atomic<bool>& stop) {
  SetWorkerState(slot, WorkerState::kAwaitsTurn);
  Doorbell bell(&slot->command_bell);
  for (;;) {
    const uint32_t ticket = bell.Ticket();
    Command command;
    if (slot->commands.TryPop(&command)) {
      if (command.kind == Command::kStop) return false;
      if (command.kind != Command::kMeasure) continue;
      SetWorkerState(slot, WorkerState::kMeasuring);
      return true;
    }
    if (stop.load()) return false;
    slot->heartbeat_ns.store(MonotonicNs(), std::memory_order_relaxed);
    bell.Wait(ticket, kHeartbeatNs, 0);
  }
}

EarlierMeasurement ReadEarlierMeasurement(const WorkerSlot& slot, const ModelSpec& spec, const std::string& digest) {
  EarlierMeasurement earlier;
  if (digest.empty() || LoadText(slot.measured_digest) != digest) return earlier;
  for (size_t b = 0; b < spec.bucket_count(); ++b) {
    const RangeTableEntry entry = slot.ranges[b];
    if (!IsPossible(entry)) return {};
    earlier.ranges.push_back(
        {entry.operators, {entry.cuts.begin(), entry.cuts.begin() + entry.cut_count}, entry.solo_ns});
  }
  earlier.device_name = LoadText(slot.device_name);
  earlier.libraries = LoadText(slot.libraries);
  return earlier;
}

bool EarlierMeasurement::HoldsFor(const ModelRuntime& runtime) const {
  return ranges.empty() || (runtime.device_name() == device_name && runtime.libraries() == libraries);
}

}  // namespace abacus
