#include "client/lease.h"

#include <utility>

#include "client/leased_region.h"

namespace abacus {
namespace {

std::string Outside(uint64_t offset, uint64_t bytes, uint64_t region_bytes) {
  return std::to_string(bytes) + " bytes at " + std::to_string(offset) + " do not lie inside a lease of " +
         std::to_string(region_bytes) + " bytes";
}

}  // namespace

std::span<std::byte> LeasedMemory::bytes() const { return region_->bytes(); }

bool LeasedMemory::Alive() const { return region_->Alive(); }

Result<Tensor> LeasedMemory::At(std::string name, DType dtype, const Shape& shape, uint64_t offset) const {
  const auto bytes = TensorBytes(dtype, shape);
  if (!bytes) return Error(StatusCode::kInvalidArgument, "no tensor has the shape " + shape.ToString());
  if (!region_->Holds(offset, *bytes)) {
    return Error(StatusCode::kInvalidArgument, "'" + name + "': " + Outside(offset, *bytes, region_->bytes().size()));
  }
  return Tensor{std::move(name), dtype, shape, region_->bytes().subspan(offset, *bytes), region_, region_};
}

Result<LeasedBlock> LeasedMemory::Block(uint64_t offset, uint64_t bytes) const {
  if (bytes == 0 || !region_->Holds(offset, bytes)) {
    return Error(
        StatusCode::kInvalidArgument,
        "a block for outputs: " + (bytes == 0 ? "it has no bytes" : Outside(offset, bytes, region_->bytes().size())));
  }
  return LeasedBlock{region_, offset, bytes};
}

}  // namespace abacus
