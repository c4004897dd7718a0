// Element types and shapes of tensors, as they travel on the wire, in model files and in shared memory.
//
// Tensors are dense and row-major, in the byte order of the machine (x86-64 and AArch64: little endian).
// Thread rule: plain values.
#ifndef ABACUS_BASE_TYPES_H_
#define ABACUS_BASE_TYPES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace abacus {

enum class DType : uint8_t {
  kFloat32 = 0,
  kFloat16,
  kBFloat16,
  kFloat64,
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUInt8,
  kBool
};

struct DTypeInfo {
  std::string_view name;  // numpy's name, except bfloat16 which numpy lacks
  size_t bytes;
  bool integer;
};
inline constexpr std::array<DTypeInfo, 10> kDTypes = {{
    {"float32", 4, false},
    {"float16", 2, false},
    {"bfloat16", 2, false},
    {"float64", 8, false},
    {"int64", 8, true},
    {"int32", 4, true},
    {"int16", 2, true},
    {"int8", 1, true},
    {"uint8", 1, true},
    {"bool", 1, true},
}};

inline constexpr const DTypeInfo& InfoOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }
inline constexpr size_t DTypeBytes(DType dtype) { return InfoOf(dtype).bytes; }
inline constexpr std::string_view DTypeName(DType dtype) { return InfoOf(dtype).name; }
inline constexpr std::optional<DType> ParseDType(std::string_view name) {
  for (size_t i = 0; i < kDTypes.size(); ++i) {
    if (kDTypes[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

inline constexpr size_t kMaxRank = 8;

// A shape of rank 0..kMaxRank, inline so that decoding a request allocates nothing for it.
class Shape {
 public:
  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }
  constexpr size_t rank() const { return rank_; }
  constexpr int64_t operator[](size_t i) const { return dims_[i]; }
  constexpr int64_t& operator[](size_t i) { return dims_[i]; }
  // Returns false, and adds nothing, when the shape already has kMaxRank dimensions.
  constexpr bool push_back(int64_t dim) {
    if (rank_ == kMaxRank) return false;
    dims_[rank_++] = dim;
    return true;
  }
  constexpr std::span<const int64_t> dims() const { return {dims_.data(), rank_}; }
  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (size_t i = 0; i < a.rank_; ++i) {
      if (a.dims_[i] != b.dims_[i]) return false;
    }
    return true;
  }
  // Number of elements, or nullopt when a dimension is negative or the product overflows.
  constexpr std::optional<uint64_t> Elements() const {
    uint64_t n = 1;
    for (size_t i = 0; i < rank_; ++i) {
      if (dims_[i] < 0) return std::nullopt;
      const auto d = static_cast<uint64_t>(dims_[i]);
      if (d != 0 && n > std::numeric_limits<uint64_t>::max() / 16 / d) return std::nullopt;
      n *= d;
    }
    return n;
  }
  std::string ToString() const {
    std::string s = "[";
    for (size_t i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[i]);
    return s + "]";
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  uint8_t rank_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_BASE_TYPES_H_
