// Checks the values of a tensor against the range that its model declares.
//
// Thread rule: free functions on the caller's memory. Costs a pass over the tensor at the speed of memory.
#ifndef ABACUS_CONTROLLER_INTAKE_VALUE_RANGE_H_
#define ABACUS_CONTROLLER_INTAKE_VALUE_RANGE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/types.h"
#include "models/model_spec.h"

namespace abacus {

// The first value outside a range, with its index.
struct OutOfRange {
  uint64_t index = 0;
  std::string value;  // as a person writes it
};

// Of an integer tensor; `range.high` counts, whatever it stands for. nullopt: all values are inside.
std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const IntRange& range);

// Of a float tensor. The bounds are the nearest values of its type; NaN and infinities are outside.
std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const FloatRange& range);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_VALUE_RANGE_H_
