// TensorArena: hands out blocks of the shared arena for the tensors of queries.
//
// Only the controller allocates and frees, so the bookkeeping lives in its private memory: a worker that crashes or
// misbehaves cannot damage it. Blocks are power-of-two sized and aligned (a buddy allocator): allocation and release
// are O(log arena), neighbours merge, and fragmentation is bounded by the size classes. A block is freed only when no
// worker can still write to it: its job completed, or the worker process is gone.
//
// Units: bytes; offsets from the start of the arena. Thread rule: one thread (the front end).
#ifndef ABACUS_CONTROLLER_INTAKE_TENSOR_ARENA_H_
#define ABACUS_CONTROLLER_INTAKE_TENSOR_ARENA_H_

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

namespace abacus {

class TensorArena {
 public:
  struct Block {
    uint64_t offset_bytes = 0;
    uint64_t bytes = 0;  // size of the class, at least what was asked for
  };
  static constexpr uint64_t kMinBlockBytes = 4096;

  explicit TensorArena(uint64_t arena_bytes);

  // nullopt when no block of that size is free: the caller answers OVERLOADED. Never waits.
  std::optional<Block> Allocate(uint64_t bytes);
  // `block` as Allocate returned it, exactly once.
  void Free(const Block& block);

  uint64_t used_bytes() const { return used_bytes_; }
  // The largest request that could ever succeed.
  uint64_t max_block_bytes() const;

 private:
  static size_t OrderOf(uint64_t bytes);

  const uint64_t arena_bytes_;
  std::vector<std::set<uint64_t>> free_;  // by order: offsets of free blocks of kMinBlockBytes << order
  uint64_t used_bytes_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_TENSOR_ARENA_H_
