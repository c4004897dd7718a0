// Copies between the memory of clients (frames of messages, leased regions) and a query's block of the arena.
//
// Inputs are checked for their ranges in the block, after the copy: a client can write to its region at any moment, and
// one index out of range on a GPU harms every client of MPS. Outputs of a query that named a place in a region are
// copied there before the reply goes out; all others are sent out of the block (replies.h).
//
// Ownership: a TensorCopy keeps frames and regions until it has run. Thread rule: a TensorCopy may run on any thread,
// one at a time; its query does not change meanwhile, and nobody else touches its block. Units: bytes.
#ifndef ABACUS_CONTROLLER_INTAKE_COPIES_H_
#define ABACUS_CONTROLLER_INTAKE_COPIES_H_

#include <boost/container/static_vector.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>
#include <zmq.hpp>

#include "controller/intake/admission.h"
#include "controller/intake/leases.h"
#include "controller/intake/query_table.h"
#include "models/tensor_layout.h"

namespace abacus {

// Where a client left the bytes of a tensor.
struct InputSource {
  zmq::message_t frame;
  LeasePtr region;  // null: they are the frame's
  std::span<const std::byte> leased;
  std::span<const std::byte> bytes() const {
    return region != nullptr ? leased : std::span(static_cast<const std::byte*>(frame.data()), frame.size());
  }
};

// Where a client wants the outputs of a query; no region: in frames of the reply.
struct OutputPlace {
  LeasePtr region;
  uint64_t offset_bytes = 0;
};
using OutputOffsets = boost::container::static_vector<uint64_t, kMaxTensorsPerSide>;
// Where in the region the outputs lie whose place begins at `begin_bytes`. *total_bytes: what the place needs.
OutputOffsets OutputOffsetsAt(const TensorLayout& layout, uint64_t begin_bytes, uint64_t* total_bytes = nullptr);

struct TensorCopy {
  uint32_t slot = 0;
  uint64_t bytes = 0;                // of all tensors
  std::vector<InputSource> sources;  // of inputs, in the request's order
  Admitted admitted;
  OutputPlace place;                   // set: outputs are copied to it, and no inputs
  std::optional<Rejection> rejection;  // afterwards: a value that the model does not take

  bool outputs() const { return place.region != nullptr; }
};

// Copies, checks, and lets frames and regions go.
void RunCopy(const Query& query, std::span<std::byte> arena, TensorCopy* copy);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_COPIES_H_
