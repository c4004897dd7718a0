#include "shm/layout.h"

#include <algorithm>
#include <cstddef>
#include <functional>

namespace abacus {

// The byte map of shm/README.md. Programs of two builds may meet at one segment: what moves here bumps kLayoutVersion,
// and layout_version, owner_pid and owner_start_ticks never move.
static_assert(sizeof(Command) == 48);
static_assert(offsetof(Command, kind) == 0);
static_assert(offsetof(Command, job_id) == 8);
static_assert(offsetof(Command, bucket) == 16);
static_assert(offsetof(Command, gate) == 28);
static_assert(offsetof(Command, query_table) == 32);
static_assert(offsetof(Command, query_count) == 36);
static_assert(offsetof(Command, sent_ns) == 40);
static_assert(sizeof(JobQuery) == 32);
static_assert(offsetof(JobQuery, block_bytes) == 8);
static_assert(offsetof(JobQuery, rows) == 16);
static_assert(offsetof(JobQuery, sequence) == 20);
static_assert(offsetof(JobQuery, first_row) == 24);
static_assert(offsetof(JobQuery, query_rows) == 28);
static_assert(sizeof(Completion) == 56);
static_assert(offsetof(Completion, job_id) == 0);
static_assert(offsetof(Completion, first) == 8);
static_assert(offsetof(Completion, status) == 16);
static_assert(offsetof(Completion, fatal) == 20);
static_assert(offsetof(Completion, started_ns) == 24);
static_assert(offsetof(Completion, ended_ns) == 32);
static_assert(offsetof(Completion, gpu_started_ns) == 40);
static_assert(offsetof(Completion, gpu_ended_ns) == 48);
static_assert(sizeof(DoorbellWord) == 64);
static_assert(sizeof(GateWord) == 64);
static_assert(offsetof(GateWord, waiting) == 4);
static_assert(sizeof(RangeTableEntry) == 280);
static_assert(offsetof(RangeTableEntry, cut_count) == 4);
static_assert(offsetof(RangeTableEntry, solo_ns) == 8);
static_assert(offsetof(RangeTableEntry, cuts) == 16);
static_assert(sizeof(ServiceStats) == 2208);
static_assert(offsetof(ServiceStats, replies) == 8);
static_assert(offsetof(ServiceStats, violations) == 88);
static_assert(offsetof(ServiceStats, queued) == 96);
static_assert(offsetof(ServiceStats, running) == 104);
static_assert(offsetof(ServiceStats, ranges) == 112);
static_assert(offsetof(ServiceStats, restarts) == 120);
static_assert(offsetof(ServiceStats, jobs) == 128);
static_assert(offsetof(ServiceStats, job_rows) == 136);
static_assert(offsetof(ServiceStats, job_queries) == 144);
static_assert(offsetof(ServiceStats, padding_rows) == 152);
static_assert(offsetof(ServiceStats, latency) == 160);
static_assert(sizeof(ServiceBlock) == 2368);
static_assert(offsetof(ServiceBlock, worker) == 64);
static_assert(offsetof(ServiceBlock, stats) == 128);
static_assert(sizeof(WorkerSlot) == 30080);
static_assert(offsetof(WorkerSlot, service) == 0);
static_assert(offsetof(WorkerSlot, lane) == 4);
static_assert(offsetof(WorkerSlot, generation) == 8);
static_assert(offsetof(WorkerSlot, bucket_count) == 12);
static_assert(offsetof(WorkerSlot, state) == 64);
static_assert(offsetof(WorkerSlot, pid) == 68);
static_assert(offsetof(WorkerSlot, heartbeat_ns) == 72);
static_assert(offsetof(WorkerSlot, ranges_run) == 80);
static_assert(offsetof(WorkerSlot, busy_ns) == 88);
static_assert(offsetof(WorkerSlot, device) == 96);
static_assert(offsetof(WorkerSlot, device_name) == 112);
static_assert(offsetof(WorkerSlot, libraries) == 240);
static_assert(offsetof(WorkerSlot, structure) == 368);
static_assert(offsetof(WorkerSlot, measured_digest) == 440);
static_assert(offsetof(WorkerSlot, error) == 512);
static_assert(offsetof(WorkerSlot, error_code) == 1024);
static_assert(offsetof(WorkerSlot, ranges) == 1032);
static_assert(offsetof(WorkerSlot, command_bell) == 19008);
static_assert(offsetof(WorkerSlot, commands) == 19072);
static_assert(offsetof(WorkerSlot, completions) == 22272);
static_assert(offsetof(WorkerSlot, queries) == 25984);
static_assert(sizeof(PredictorStats) == 328);
static_assert(offsetof(PredictorStats, trained) == 256);
static_assert(offsetof(PredictorStats, margin_ppm) == 260);
static_assert(offsetof(PredictorStats, error_ppm) == 264);
static_assert(offsetof(PredictorStats, rounds) == 272);
static_assert(offsetof(PredictorStats, rounds_over) == 280);
static_assert(offsetof(PredictorStats, rounds_untrained) == 288);
static_assert(offsetof(PredictorStats, rounds_several) == 296);
static_assert(offsetof(PredictorStats, factor_ppm) == 304);
static_assert(offsetof(PredictorStats, start_ns) == 320);
static_assert(sizeof(LaneBlock) == 4096);
static_assert(offsetof(LaneBlock, gate) == 0);
static_assert(offsetof(LaneBlock, gpu) == 64);
static_assert(offsetof(LaneBlock, predictor) == 128);
static_assert(sizeof(SegmentHeader) == 384);
static_assert(offsetof(SegmentHeader, magic) == 0);
static_assert(offsetof(SegmentHeader, layout_version) == 8);
static_assert(offsetof(SegmentHeader, service_count) == 12);
static_assert(offsetof(SegmentHeader, lane_count) == 44);
static_assert(offsetof(SegmentHeader, total_bytes) == 16);
static_assert(offsetof(SegmentHeader, arena_offset_bytes) == 24);
static_assert(offsetof(SegmentHeader, arena_bytes) == 32);
static_assert(offsetof(SegmentHeader, owner_pid) == 40);
static_assert(offsetof(SegmentHeader, owner_start_ticks) == 48);
static_assert(offsetof(SegmentHeader, started_ns) == 56);
static_assert(offsetof(SegmentHeader, policy) == 64);
static_assert(offsetof(SegmentHeader, endpoint) == 96);
static_assert(offsetof(SegmentHeader, heartbeat_ns) == 256);
static_assert(offsetof(SegmentHeader, draining) == 264);
static_assert(offsetof(SegmentHeader, arena_reserved) == 268);
static_assert(offsetof(SegmentHeader, arena_used_bytes) == 272);
static_assert(offsetof(SegmentHeader, rejected_messages) == 280);
static_assert(offsetof(SegmentHeader, dropped_replies) == 288);
static_assert(offsetof(SegmentHeader, closed_connections) == 296);
static_assert(offsetof(SegmentHeader, controller_bell) == 320);
static_assert(LaneBlockOffset(LaneId(0)) == 4096);
static_assert(ServiceBlockOffset(ServiceId(0)) == 36864);
static_assert(WorkerSlotOffset(WorkerId(0)) == 74752);
static_assert(ArenaOffset() == 557056);
static_assert(sizeof(SegmentHeader) <= kHeaderBytes);
static_assert(sizeof(ShmAtomic<uint64_t>) == 8);

bool IsPossible(const RangeTableEntry& entry) {
  if (entry.cut_count < 2 || entry.cut_count > entry.cuts.size() || entry.solo_ns > kMaxSoloNs) return false;
  const auto begin = entry.cuts.begin();
  const auto end = begin + entry.cut_count;
  return entry.cuts[0] == 0 && entry.cuts[entry.cut_count - 1] == entry.operators &&
         std::adjacent_find(begin, end, std::greater_equal<>()) == end;
}

std::string_view WorkerStateName(WorkerState state) {
  switch (state) {
    case WorkerState::kEmpty:
      return "empty";
    case WorkerState::kStarting:
      return "starting";
    case WorkerState::kLoading:
      return "loading";
    case WorkerState::kAwaitsTurn:
      return "waiting";
    case WorkerState::kMeasuring:
      return "measuring";
    case WorkerState::kLoaded:
      return "loaded";
    case WorkerState::kServing:
      return "serving";
    case WorkerState::kFailed:
      return "failed";
    case WorkerState::kExited:
      return "exited";
  }
  return "unknown";  // a value from shared memory may be anything
}

}  // namespace abacus
