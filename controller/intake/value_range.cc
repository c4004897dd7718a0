#include "controller/intake/value_range.h"

#include <cstring>

namespace abacus {
namespace {

template <class T>
std::optional<OutOfRange> Scan(std::span<const std::byte> data, const IntRange& range) {
  const uint64_t elements = data.size() / sizeof(T);
  for (uint64_t i = 0; i < elements; ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    const auto wide = static_cast<int64_t>(value);
    if (wide < range.low || wide > range.high) return OutOfRange{i, wide};
  }
  return std::nullopt;
}

}  // namespace

std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const IntRange& range) {
  switch (dtype) {
    case DType::kInt64:
      return Scan<int64_t>(data, range);
    case DType::kInt32:
      return Scan<int32_t>(data, range);
    case DType::kInt16:
      return Scan<int16_t>(data, range);
    case DType::kInt8:
      return Scan<int8_t>(data, range);
    case DType::kUInt8:
    case DType::kBool:
      return Scan<uint8_t>(data, range);
    default:
      return std::nullopt;  // floats pass through, NaN and Inf included
  }
}

}  // namespace abacus
