#include "controller/tensor_copy.h"

#include <cstring>

namespace abacus {
namespace {

// Elements of one step along dimension `axis`.
uint64_t Stride(const Shape& shape, size_t axis) {
  uint64_t stride = 1;
  for (size_t i = axis + 1; i < shape.rank(); ++i) stride *= static_cast<uint64_t>(shape[i]);
  return stride;
}

// Dimensions from this one on are equal in both shapes, so they form one contiguous run.
size_t FirstEqualSuffix(const Shape& a, const Shape& b) {
  size_t axis = a.rank();
  while (axis > 0 && a[axis - 1] == b[axis - 1]) --axis;
  return axis;
}

// Calls copy(dst_element, src_element, elements) for every contiguous run of `common`, in ascending order.
template <class Copy>
void ForEachRun(const Shape& dst, const Shape& src, const Shape& common, size_t axis, size_t suffix, uint64_t dst_at,
                uint64_t src_at, const Copy& copy) {
  // The last differing dimension is itself contiguous together with the equal suffix behind it.
  if (suffix == 0 || axis + 1 == suffix) {
    const uint64_t run = suffix == 0 ? Stride(common, 0) * (common.rank() > 0 ? static_cast<uint64_t>(common[0]) : 1)
                                     : static_cast<uint64_t>(common[axis]) * Stride(common, axis);
    copy(dst_at, src_at, run);
    return;
  }
  for (int64_t i = 0; i < common[axis]; ++i) {
    ForEachRun(dst, src, common, axis + 1, suffix, dst_at + static_cast<uint64_t>(i) * Stride(dst, axis),
               src_at + static_cast<uint64_t>(i) * Stride(src, axis), copy);
  }
}

void Fill(std::byte* dst, uint64_t elements, DType dtype, int64_t pad) {
  const size_t width = DTypeBytes(dtype);
  if (pad == 0 || !InfoOf(dtype).integer) {  // all-zero bytes are zero in every float type too
    std::memset(dst, 0, elements * width);
    return;
  }
  for (uint64_t i = 0; i < elements; ++i) std::memcpy(dst + i * width, &pad, width);  // little endian: low bytes
}

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

void CopyPadded(std::byte* dst, const Shape& to, const std::byte* src, const Shape& from, DType dtype, int64_t pad) {
  const size_t width = DTypeBytes(dtype);
  const uint64_t to_elements = to.Elements().value_or(0);
  const uint64_t from_elements = from.Elements().value_or(0);
  const size_t suffix = FirstEqualSuffix(to, from);
  if (suffix <= 1) {  // same shape, or only the first dimension grows: one run and a tail
    std::memcpy(dst, src, from_elements * width);
    Fill(dst + from_elements * width, to_elements - from_elements, dtype, pad);
    return;
  }
  Fill(dst, to_elements, dtype, pad);
  ForEachRun(to, from, from, 0, suffix, 0, 0, [&](uint64_t dst_at, uint64_t src_at, uint64_t run) {
    std::memcpy(dst + dst_at * width, src + src_at * width, run * width);
  });
}

void CropInPlace(std::byte* data, const Shape& from, const Shape& to, DType dtype) {
  const size_t suffix = FirstEqualSuffix(from, to);
  if (suffix <= 1) return;  // the leading part is at the front already
  const size_t width = DTypeBytes(dtype);
  // Ascending runs move towards the front, so no run is overwritten before it is read.
  ForEachRun(to, from, to, 0, suffix, 0, 0, [&](uint64_t dst_at, uint64_t src_at, uint64_t run) {
    if (dst_at != src_at) std::memmove(data + dst_at * width, data + src_at * width, run * width);
  });
}

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
