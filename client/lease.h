// LeasedMemory: memory that a client shares with a server on the same machine, so that its tensors need not be sent.
//
//   Result<LeasedMemory> memory = client->Lease(1 << 20);
//   if (!memory) return memory.error();  // the server is on another machine, or gives none
//   Fill(memory->bytes().first(602'112));
//   InferRequest request{.model = "resnet50"};
//   request.inputs = {*memory->At("image", DType::kFloat32, {1, 3, 224, 224}, 0)};
//   request.outputs = *memory->Block(602'112, 4'096);  // optional: without it, outputs come in frames
//
// Ownership: the memory lives, and the server keeps its side of it, as long as anything here refers to it: the
// LeasedMemory, tensors and blocks in it, queries in flight that use them, and outputs of replies that lie in it. So it
// can neither be unmapped nor given back under a query. It may outlive its Client, and is ordinary memory then; so it
// is when its server has gone, or for another Client: tensors in it are sent like all others. A forked child shares the
// memory, and keeps the lease from ending until it ends itself.
//
// Inputs must not change while their query is in flight: a block that lies over those of another query is refused. A
// block belongs to its query until the server has answered, even where nobody waits for that any more (a time limit
// that passed): until then, queries that use any of it are refused with INVALID_ARGUMENT. Its content counts only after
// a reply that is OK, until another query gets the block.
//
// Thread rule: any thread; the bytes are as safe as any memory. Units: bytes.
#ifndef ABACUS_CLIENT_LEASE_H_
#define ABACUS_CLIENT_LEASE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "base/types.h"
#include "client/tensor.h"

namespace abacus {

// Where the server writes the outputs of a query: [offset, offset + bytes) of a region, in the order of the model's
// description, each at a multiple of 64 bytes from the begin.
struct LeasedBlock {
  std::shared_ptr<LeasedRegion> region;  // null: none, outputs come in frames
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class LeasedMemory {
 public:
  explicit LeasedMemory(std::shared_ptr<LeasedRegion> region) : region_(std::move(region)) {}
  LeasedMemory(LeasedMemory&&) = default;
  LeasedMemory& operator=(LeasedMemory&&) = default;
  LeasedMemory(const LeasedMemory&) = delete;
  LeasedMemory& operator=(const LeasedMemory&) = delete;

  // At least as many as were asked for, at first zero. REQUIRES: not moved from, as for all below.
  std::span<std::byte> bytes() const;
  // Whether the server still holds its side.
  bool Alive() const;

  // A tensor whose bytes begin at `offset`, and a block for outputs. INVALID_ARGUMENT: it does not lie inside.
  Result<Tensor> At(std::string name, DType dtype, const Shape& shape, uint64_t offset) const;
  Result<LeasedBlock> Block(uint64_t offset, uint64_t bytes) const;

 private:
  std::shared_ptr<LeasedRegion> region_;
};

}  // namespace abacus

#endif  // ABACUS_CLIENT_LEASE_H_
