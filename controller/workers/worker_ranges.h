// What a worker publishes about its buckets, copied out of shared memory and checked: the worker may write it any time.
#ifndef ABACUS_CONTROLLER_WORKERS_WORKER_RANGES_H_
#define ABACUS_CONTROLLER_WORKERS_WORKER_RANGES_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "shm/layout.h"

namespace abacus {

struct WorkerRanges {
  uint32_t operators = 0;
  uint64_t solo_ns = 0;        // of a whole pass; at most kMaxSoloNs
  std::vector<uint32_t> cuts;  // strictly ascending from 0 to `operators`
};

// One entry for each of the first `buckets` buckets. kInvalidArgument: the table is impossible; names the bucket.
Result<std::vector<WorkerRanges>> ReadWorkerRanges(const WorkerSlot& slot, size_t buckets);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_WORKER_RANGES_H_
