#include "client/tensor.h"

#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace abacus {
namespace {

template <class T>
T Load(std::span<const std::byte> bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

double Float16ToDouble(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  double magnitude = std::ldexp(fraction + 0x400, exponent - 25);
  if (exponent == 0) magnitude = std::ldexp(fraction, -24);
  if (exponent == 0x1f) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

}  // namespace

Tensor Tensor::Own(std::string name, DType dtype, const Shape& shape, std::vector<std::byte> bytes) {
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return {std::move(name), dtype, shape, *owner, owner};
}

std::optional<size_t> TensorBytes(DType dtype, const Shape& shape) {
  const auto elements = shape.Elements();  // bounded so that the product below fits
  if (!elements) return std::nullopt;
  return *elements * DTypeBytes(dtype);
}

double ElementAt(DType dtype, std::span<const std::byte> bytes, size_t index) {
  switch (dtype) {
    case DType::kFloat32:
      return Load<float>(bytes, index);
    case DType::kFloat16:
      return Float16ToDouble(Load<uint16_t>(bytes, index));
    case DType::kBFloat16:
      return std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(bytes, index)) << 16);
    case DType::kFloat64:
      return Load<double>(bytes, index);
    case DType::kInt64:
      return static_cast<double>(Load<int64_t>(bytes, index));
    case DType::kInt32:
      return Load<int32_t>(bytes, index);
    case DType::kInt16:
      return Load<int16_t>(bytes, index);
    case DType::kInt8:
      return Load<int8_t>(bytes, index);
    case DType::kUInt8:
    case DType::kBool:
      return Load<uint8_t>(bytes, index);
  }
  return 0;
}

}  // namespace abacus
