// Checks the values of a tensor against the range that its model declares.
//
// Thread rule: free functions on the caller's memory.
#ifndef ABACUS_CONTROLLER_INTAKE_VALUE_RANGE_H_
#define ABACUS_CONTROLLER_INTAKE_VALUE_RANGE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/types.h"
#include "models/model_spec.h"

namespace abacus {

// First value of an integer tensor outside `range`, with its index; nullopt when all are inside.
struct OutOfRange {
  uint64_t index = 0;
  int64_t value = 0;
};
std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const IntRange& range);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_VALUE_RANGE_H_
