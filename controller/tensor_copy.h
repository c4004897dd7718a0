// Moves tensors between query shape and bucket shape, and checks their values. Shapes differ only by padding at the end
// of the batch and sequence dimensions; data is row-major.
//
// Thread rule: free functions on the caller's memory.
#ifndef ABACUS_CONTROLLER_TENSOR_COPY_H_
#define ABACUS_CONTROLLER_TENSOR_COPY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "models/model_spec.h"
#include "shm/types.h"

namespace abacus {

// Copies a tensor of shape `from` into one of shape `to` (every dimension at least as large); the rest becomes `pad`.
void CopyPadded(std::byte* dst, const Shape& to, const std::byte* src, const Shape& from, DType dtype, int64_t pad);

// Packs the leading part `to` of a tensor of shape `from` to the front of its own memory.
void CropInPlace(std::byte* data, const Shape& from, const Shape& to, DType dtype);

// First value of an integer tensor outside `range`, with its index; nullopt when all are inside.
struct OutOfRange {
  uint64_t index = 0;
  int64_t value = 0;
};
std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const IntRange& range);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_TENSOR_COPY_H_
