// Tensor: a named, typed, shaped array of bytes, as the client sends and receives it.
//
// Ownership: `owner` keeps `bytes` alive, so copies of a Tensor share the bytes and may outlive the reply or buffer
// that they came from. A Tensor without an owner only borrows its bytes; sending it copies them before the sending call
// returns. The bytes behind an owner must not change while a query that uses them is in flight.
//
// Thread rule: plain values. Bytes are dense, row-major, little endian, and may lie at any alignment.
#ifndef ABACUS_CLIENT_TENSOR_H_
#define ABACUS_CLIENT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/types.h"

namespace abacus {

class LeasedRegion;

struct Tensor {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  // Memory shared with the server (client/lease.h) that the bytes lie in: a query names them instead of sending them.
  std::shared_ptr<LeasedRegion> region = nullptr;

  // Takes the bytes over.
  static Tensor Own(std::string name, DType dtype, const Shape& shape, std::vector<std::byte> bytes);

  // The elements as T, copied; empty when the bytes are no whole number of T.
  template <class T>
  std::vector<T> ToVector() const {
    std::vector<T> values(bytes.size() % sizeof(T) == 0 ? bytes.size() / sizeof(T) : 0);
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

// Bytes that a tensor of this type and shape takes; nullopt: the shape is negative or too large.
std::optional<size_t> TensorBytes(DType dtype, const Shape& shape);

// Element `index` as a double (64-bit integers beyond 2^53 are rounded). REQUIRES: the element lies inside bytes.
double ElementAt(DType dtype, std::span<const std::byte> bytes, size_t index);

}  // namespace abacus

#endif  // ABACUS_CLIENT_TENSOR_H_
