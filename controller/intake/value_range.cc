#include "controller/intake/value_range.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "models/float_bits.h"

namespace abacus {
namespace {

constexpr size_t kBlockElements = 1024;  // looked at without a branch; one that holds an outsider is searched

template <class T>
T ElementAt(std::span<const std::byte> data, size_t index) {
  T value;
  std::memcpy(&value, data.data() + index * sizeof(T), sizeof(T));
  return value;
}

// Index of the first element whose key is not in [low, high].
template <class T, class KeyOf>
std::optional<size_t> FirstOutside(std::span<const std::byte> data, T low, T high, const KeyOf& key_of) {
  const size_t elements = data.size() / sizeof(T);
  size_t i = 0;
  for (; i + kBlockElements <= elements; i += kBlockElements) {
    T outside = 0;  // of the elements' width and with a fixed number of steps, so that compilers make vectors of it
    for (size_t k = 0; k < kBlockElements; ++k) {
      const T key = key_of(ElementAt<T>(data, i + k));
      outside |= static_cast<T>(key < low) | static_cast<T>(key > high);
    }
    if (outside != 0) break;
  }
  for (; i < elements; ++i) {
    const T key = key_of(ElementAt<T>(data, i));
    if (key < low || key > high) return i;
  }
  return std::nullopt;
}

template <class T>
std::optional<OutOfRange> ScanIntegers(std::span<const std::byte> data, const IntRange& range) {
  using Limits = std::numeric_limits<T>;
  const auto narrow = [](int64_t bound) {
    return static_cast<T>(std::clamp(bound, int64_t{Limits::min()}, int64_t{Limits::max()}));
  };
  const T low = narrow(range.low), high = narrow(range.high);
  if (low == Limits::min() && high == Limits::max()) return std::nullopt;  // every value is allowed: uint8 pictures
  const auto found = FirstOutside<T>(data, low, high, [](T value) { return value; });
  if (!found) return std::nullopt;
  return OutOfRange{*found, std::to_string(ElementAt<T>(data, *found))};
}

// Floats are compared as integers of their width, in an order that is theirs: the sign turned into that of a two's
// complement. Infinities come behind every finite value and NaN behind those, so no comparison lets them through.
template <class T>
std::optional<OutOfRange> ScanFloats(std::span<const std::byte> data, DType dtype, const FloatRange& range) {
  const auto key_of = [](T bits) { return bits < 0 ? static_cast<T>(-(bits & std::numeric_limits<T>::max())) : bits; };
  const auto bound = [&](double value) { return key_of(static_cast<T>(NearestFloat(value, dtype))); };
  const auto found = FirstOutside<T>(data, bound(range.low), bound(range.high), key_of);
  if (!found) return std::nullopt;
  const double value = FloatOf(static_cast<uint64_t>(ElementAt<T>(data, *found)), dtype);
  // The fewest digits that tell it from its neighbours; the types of 16 bits have too few for that to be much shorter.
  const bool is_double = dtype == DType::kFloat64;
  return OutOfRange{*found, is_double ? fmt::format("{}", value) : fmt::format("{}", static_cast<float>(value))};
}

}  // namespace

std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const IntRange& range) {
  switch (dtype) {
    case DType::kInt64:
      return ScanIntegers<int64_t>(data, range);
    case DType::kInt32:
      return ScanIntegers<int32_t>(data, range);
    case DType::kInt16:
      return ScanIntegers<int16_t>(data, range);
    case DType::kInt8:
      return ScanIntegers<int8_t>(data, range);
    case DType::kUInt8:
    case DType::kBool:
      return ScanIntegers<uint8_t>(data, range);
    default:
      return std::nullopt;  // floats have ranges of their own
  }
}

std::optional<OutOfRange> FindOutOfRange(std::span<const std::byte> data, DType dtype, const FloatRange& range) {
  switch (dtype) {
    case DType::kFloat64:
      return ScanFloats<int64_t>(data, dtype, range);
    case DType::kFloat32:
      return ScanFloats<int32_t>(data, dtype, range);
    case DType::kFloat16:
    case DType::kBFloat16:
      return ScanFloats<int16_t>(data, dtype, range);
    default:
      return std::nullopt;
  }
}

}  // namespace abacus
