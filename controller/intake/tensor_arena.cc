#include "controller/intake/tensor_arena.h"

#include <bit>
#include <cassert>

namespace abacus {

size_t TensorArena::OrderOf(uint64_t bytes) {
  const uint64_t units = bytes <= kMinBlockBytes ? 1 : (bytes + kMinBlockBytes - 1) / kMinBlockBytes;
  return static_cast<size_t>(std::bit_width(units - 1));
}

TensorArena::TensorArena(uint64_t arena_bytes) : arena_bytes_(arena_bytes / kMinBlockBytes * kMinBlockBytes) {
  // The arena need not be a power of two: it starts as the largest aligned blocks that fill it.
  free_.resize(arena_bytes_ == 0 ? 1 : static_cast<size_t>(std::bit_width(arena_bytes_ / kMinBlockBytes)));
  uint64_t offset = 0;
  while (offset < arena_bytes_) {
    size_t order = free_.size() - 1;
    while (offset % (kMinBlockBytes << order) != 0 || offset + (kMinBlockBytes << order) > arena_bytes_) --order;
    free_[order].insert(offset);
    offset += kMinBlockBytes << order;
  }
}

uint64_t TensorArena::max_block_bytes() const { return arena_bytes_ == 0 ? 0 : std::bit_floor(arena_bytes_); }

std::optional<TensorArena::Block> TensorArena::Allocate(uint64_t bytes) {
  if (bytes > max_block_bytes()) return std::nullopt;
  const size_t order = OrderOf(bytes);
  size_t from = order;
  while (from < free_.size() && free_[from].empty()) ++from;
  if (from >= free_.size()) return std::nullopt;
  const uint64_t offset = *free_[from].begin();
  free_[from].erase(free_[from].begin());
  while (from > order) {  // give the upper halves back
    --from;
    free_[from].insert(offset + (kMinBlockBytes << from));
  }
  const Block block{offset, kMinBlockBytes << order};
  used_bytes_ += block.bytes;
  return block;
}

void TensorArena::Free(const Block& block) {
  assert(std::has_single_bit(block.bytes) && block.offset_bytes % block.bytes == 0);
  used_bytes_ -= block.bytes;
  uint64_t offset = block.offset_bytes;
  size_t order = OrderOf(block.bytes);
  while (order + 1 < free_.size()) {  // merge with the buddy as long as it is free
    const uint64_t buddy = offset ^ (kMinBlockBytes << order);
    const auto it = free_[order].find(buddy);
    if (it == free_[order].end()) break;
    free_[order].erase(it);
    offset = offset < buddy ? offset : buddy;
    ++order;
  }
  free_[order].insert(offset);
}

}  // namespace abacus
