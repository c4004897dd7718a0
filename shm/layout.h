// The byte layout of the shared-memory segment: one per running controller, mapped by it and by every worker.
//
//   SegmentHeader | LaneBlock[kMaxLanes] | ServiceBlock[kMaxServices] | WorkerSlot[kMaxWorkers] | arena
//
// Services, workers and lanes are numbered apart (base/ids.h): a service may move to another worker slot, and every
// worker belongs to the lane of its GPU.
//
// shm/README.md has the byte map with writer, reader and ordering of every field. All structs here are trivially laid
// out, hold no pointers, and are pinned by the asserts of layout.cc: any change of a struct bumps kLayoutVersion.
//
// Trust: the controller owns every size and offset. A worker may write only its own WorkerSlot's worker-side fields
// and the arena blocks that it was handed; what the controller reads back it copies first and then checks.
#ifndef ABACUS_SHM_LAYOUT_H_
#define ABACUS_SHM_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/histogram.h"
#include "base/ids.h"
#include "base/status.h"
#include "shm/shm_atomic.h"
#include "shm/spsc_ring.h"

namespace abacus {

inline constexpr uint64_t kSegmentMagic = 0x3153554341424153;  // "SABACUS1", read as little endian
inline constexpr uint32_t kLayoutVersion = 6;
inline constexpr size_t kMaxServices = 16;
inline constexpr size_t kMaxWorkers = 16;
inline constexpr size_t kMaxLanes = 8;
inline constexpr size_t kMaxBuckets = 64;
inline constexpr size_t kMaxCuts = 64;        // intervals between cut points of one bucket
inline constexpr size_t kMaxJobQueries = 64;  // queries of one job
inline constexpr size_t kMaxQueryParts = 64;  // a query has at most this many times the rows of the largest bucket
inline constexpr size_t kMaxSent = 2;         // commands out to one worker: a range that runs, and one sent ahead
inline constexpr size_t kRingCapacity = 64;
inline constexpr size_t kPageBytes = 4096;

// What the controller asks a worker to do. One cache line.
struct Command {
  enum Kind : uint32_t {
    kRun = 1,
    kStop = 2,
    kMeasure = 3,  // to a worker in kAwaitsTurn: nobody else uses its device now
  };
  enum Flags : uint32_t { kSynthetic = 1 };  // no tensors: run on the worker's stored input
  uint32_t kind = 0;
  uint32_t flags = 0;
  uint64_t job_id = 0;
  uint32_t bucket = 0;
  uint32_t first = 0;  // operators [first, last), both cut points of the bucket
  uint32_t last = 0;
  uint32_t gate = 0;         // start once LaneBlock::gate has reached this value (gate.h); 0: at once
  uint32_t query_table = 0;  // which of WorkerSlot::queries names the job's queries
  uint32_t query_count = 0;  // entries of it; 0 with kSynthetic
  uint64_t sent_ns = 0;
};
static_assert(sizeof(Command) <= kCacheLineBytes);

// Rows of one query of a job: in the order of the table they make up the batch. What is missing to the bucket's size is
// padding. The tensors lie in the query's own block of the arena at the query's own shape (models/tensor_layout.h). A
// query that is too large for one job is run in parts: a job then takes only some of its rows.
struct JobQuery {
  uint64_t block_offset = 0;  // from the start of the arena
  uint64_t block_bytes = 0;
  uint32_t rows = 0;        // of the batch: [first_row, first_row + rows) of the query's
  uint32_t sequence = 0;    // its length, at most the bucket's; 0: the model has none
  uint32_t first_row = 0;   // > 0: a part of the query that is not its first
  uint32_t query_rows = 0;  // all that the block holds
};

// What a worker answers, one per kRun command, in order.
struct Completion {
  uint64_t job_id = 0;
  uint32_t first = 0;
  uint32_t last = 0;
  uint32_t status = 0;      // StatusCode; the text is in WorkerSlot::error
  uint32_t fatal = 0;       // 1: the worker exits after this
  uint64_t started_ns = 0;  // command taken, or its gate seen open
  uint64_t ended_ns = 0;
  // When the GPU began and ended the range, on the GPU's own clock; 0 unless GPU timestamps are on.
  uint64_t gpu_started_ns = 0;
  uint64_t gpu_ended_ns = 0;
};
static_assert(sizeof(Completion) <= kCacheLineBytes);

// A futex word that one side waits on and the other rings; see doorbell.h.
struct alignas(kCacheLineBytes) DoorbellWord {
  ShmAtomic<uint32_t> value{0};
  ShmAtomic<uint32_t> waiting{0};
};

// Holds back ranges that were sent ahead of their round; see gate.h.
struct alignas(kCacheLineBytes) GateWord {
  ShmAtomic<uint32_t> value{0};
  ShmAtomic<uint32_t> waiting{0};  // sleepers
};

enum class WorkerState : uint32_t {
  kEmpty = 0,   // no process yet
  kStarting,    // spawned
  kLoading,     // loads, optimises and checks its model
  kAwaitsTurn,  // has loaded, and measures once it gets kMeasure
  kMeasuring,   // measures cut points and solo times
  kLoaded,      // ready to serve; the controller may still check that it is an MPS client
  kServing,     // takes queries
  kFailed,      // gave up; `error` says why
  kExited,      // process gone
};
std::string_view WorkerStateName(WorkerState state);

// Cut points and solo time of one bucket; BucketRanges of worker/runtime/model_runtime.h, laid out flat.
struct RangeTableEntry {
  uint32_t operators = 0;
  uint32_t cut_count = 0;  // number of entries of `cuts`: intervals + 1
  uint64_t solo_ns = 0;
  std::array<uint32_t, kMaxCuts + 1> cuts{};
  uint32_t reserved = 0;
};

inline constexpr uint64_t kMaxSoloNs = 3'600'000'000'000;  // an hour: keeps sums of times far from overflow

// Whether an entry is one that a worker may publish: cuts strictly ascending from 0 to `operators`, and a time of at
// most kMaxSoloNs. For a copy: who wrote the original may write it again any time.
bool IsPossible(const RangeTableEntry& entry);

// Counters of one service. Written by the controller's scheduler thread (`restarts`: its main thread), read from
// outside by the inspector.
struct ServiceStats {
  ShmAtomic<uint64_t> accepted{0};
  std::array<ShmAtomic<uint64_t>, kWireStatusCount> replies{};  // by StatusCode
  ShmAtomic<uint64_t> violations{0};                            // OK replies later than their target
  ShmAtomic<uint64_t> queued{0};                                // queries that were not sent to the end of the model
  ShmAtomic<uint64_t> running{0};                               // ranges that were sent and not answered
  ShmAtomic<uint64_t> ranges{0};                                // ranges that were answered
  ShmAtomic<uint64_t> restarts{0};
  ShmAtomic<uint64_t> jobs{0};                                 // that ran to their end
  ShmAtomic<uint64_t> job_rows{0};                             // of these: rows of queries,
  ShmAtomic<uint64_t> job_queries{0};                          // queries; a part counts as one,
  ShmAtomic<uint64_t> padding_rows{0};                         // and rows that were missing to the bucket's batch
  std::array<ShmAtomic<uint64_t>, kLatencyBuckets> latency{};  // LatencyBucketOf(total_ns), OK replies only
};

// One service: who runs it, and how it does.
struct ServiceBlock {
  std::array<char, 64> name{};
  ShmAtomic<uint32_t> worker{0};  // WorkerId of the slot that runs it
  alignas(kCacheLineBytes) ServiceStats stats;
};

struct WorkerSlot {
  // Written by the controller before the worker is spawned.
  uint32_t service = 0;               // ServiceId
  uint32_t lane = 0;                  // LaneId
  ShmAtomic<uint32_t> generation{0};  // counts the processes that held this slot
  uint32_t bucket_count = 0;
  // Written by the worker (and by the controller while no worker is attached).
  alignas(kCacheLineBytes) ShmAtomic<uint32_t> state{0};  // WorkerState; release publishes what precedes it
  ShmAtomic<int32_t> pid{0};
  ShmAtomic<uint64_t> heartbeat_ns{0};  // monotonic clock, at least every kHeartbeatNs while alive
  ShmAtomic<uint64_t> ranges_run{0};
  ShmAtomic<uint64_t> busy_ns{0};
  std::array<char, 16> device{};           // "cpu", "cuda:0", "fake"
  std::array<char, 128> device_name{};     // "NVIDIA H100 80GB HBM3"; what a predictor is trained for
  std::array<char, 128> libraries{};       // versions that decide which kernels run
  std::array<char, 72> structure{};        // digest of the model without its weights, 64 hex digits; "": none
  std::array<char, 72> measured_digest{};  // of the model that `ranges` was measured with, 64 hex digits; "": of none
  std::array<char, 512> error{};           // NUL-terminated; valid with state kFailed or a failed Completion
  ShmAtomic<uint32_t> error_code{0};       // StatusCode of `error`, with state kFailed
  // Valid from kLoaded on. It survives its process: the next one takes what still holds (measured_digest).
  std::array<RangeTableEntry, kMaxBuckets> ranges{};
  // Command ring and its doorbell: controller -> worker.
  DoorbellWord command_bell;
  SpscRing<Command, kRingCapacity> commands;
  // Completion ring: worker -> controller; the doorbell is SegmentHeader::controller_bell.
  SpscRing<Completion, kRingCapacity> completions;
  // Queries of the jobs whose commands are out, a table for each; the command ring publishes them.
  alignas(kCacheLineBytes) std::array<std::array<JobQuery, kMaxJobQueries>, kMaxSent> queries{};
};

// How well the latency model of a lane does, written by the scheduler thread.
struct PredictorStats {
  std::array<char, 256> description{};  // which model predicts and, for a fallback, why; rewritten as workers come up
  ShmAtomic<uint32_t> trained{0};     // 1: a predictor file is loaded; `description` names the services it does not fit
  ShmAtomic<uint32_t> margin_ppm{0};  // safety margin now, millionths of prediction + AdaptiveMargin::kBaseNs
  ShmAtomic<uint32_t> error_ppm{0};   // moving average of |actual / predicted - 1|, millionths
  ShmAtomic<uint64_t> rounds{0};      // that completed and had a prediction
  ShmAtomic<uint64_t> rounds_over{0};       // of these: took longer than prediction plus margin
  ShmAtomic<uint64_t> rounds_untrained{0};  // of these: predicted by the additive model
  ShmAtomic<uint64_t> rounds_several{0};    // of these: with more than one range
  // Learned from the rounds (corrected_model.h): factors on predictions by number of ranges, 1, 2, 3, 4 and more, in
  // millionths, 0 before the first round; and what a round takes longer that begins on an idle GPU.
  std::array<ShmAtomic<uint32_t>, 4> factor_ppm{};
  ShmAtomic<uint64_t> start_ns{0};
};

// All that the workers of one GPU share. A page of its own: GPUs map the page of their gate.
struct alignas(kPageBytes) LaneBlock {
  GateWord gate;
  std::array<char, 64> gpu{};  // as configured: an index or a UUID
  PredictorStats predictor;
};

struct SegmentHeader {
  uint64_t magic = 0;
  ShmAtomic<uint32_t> layout_version{0};  // published last with release; 0: under construction
  ShmAtomic<uint32_t> service_count{0};   // of ServiceBlocks in use, the first ones; grows with the set of services
  uint64_t total_bytes = 0;
  uint64_t arena_offset_bytes = 0;
  uint64_t arena_bytes = 0;
  int32_t owner_pid = 0;
  uint32_t lane_count = 0;
  uint64_t owner_start_ticks = 0;  // field 22 of /proc/PID/stat: tells a recycled pid from the owner
  uint64_t started_ns = 0;         // monotonic clock
  // For the inspector, written once while the controller starts:
  std::array<char, 32> policy{};
  std::array<char, 128> endpoint{};                              // first address clients connect to
  alignas(kCacheLineBytes) ShmAtomic<uint64_t> heartbeat_ns{0};  // scheduler thread
  ShmAtomic<uint32_t> draining{0};
  ShmAtomic<uint32_t> arena_reserved{0};  // the arena's memory is claimed; nobody touches it before
  ShmAtomic<uint64_t> arena_used_bytes{0};
  ShmAtomic<uint64_t> rejected_messages{0};   // no service: malformed, unknown model, ...
  ShmAtomic<uint64_t> dropped_replies{0};     // the client had vanished
  ShmAtomic<uint64_t> closed_connections{0};  // cut off for breaking a limit
  DoorbellWord controller_bell;
};

inline constexpr uint64_t kHeartbeatNs = 100'000'000;

inline constexpr size_t kHeaderBytes = kPageBytes;
inline constexpr size_t LaneBlockOffset(LaneId id) { return kHeaderBytes + id.value() * sizeof(LaneBlock); }
inline constexpr size_t ServiceBlockOffset(ServiceId id) {
  return LaneBlockOffset(LaneId(kMaxLanes)) + id.value() * sizeof(ServiceBlock);
}
inline constexpr size_t WorkerSlotOffset(WorkerId id) {
  return ServiceBlockOffset(ServiceId(kMaxServices)) + id.value() * sizeof(WorkerSlot);
}
inline constexpr size_t ArenaOffset() {
  return (WorkerSlotOffset(WorkerId(kMaxWorkers)) + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace abacus

#endif  // ABACUS_SHM_LAYOUT_H_
