// Which tensors of a bucket have small rows, and where each of them lies in one block of memory that holds them all.
//
// A copy between the host and a GPU costs about the same for every size up to some KiB. So small rows are first put
// together by the processor, and then copied as one; large ones are copied by the device from and to where they lie.
//
// Thread rule: pure functions; plain values.
#ifndef ABACUS_WORKER_TORCH_SMALL_ROWS_H_
#define ABACUS_WORKER_TORCH_SMALL_ROWS_H_

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <optional>
#include <vector>

#include "models/model_spec.h"
#include "models/tensor_layout.h"

namespace abacus {

// Up to here a row is small: far less than what a GPU transfers in the microseconds that a copy of its own costs.
inline constexpr uint64_t kSmallRowBytes = 8192;

struct SmallRows {
  // By tensor, its place in the block; nothing: its rows are large. A tensor without a batch dimension is one row.
  boost::container::static_vector<std::optional<TensorExtent>, kMaxTensorsPerSide> tensors;
  uint64_t bytes = 0;  // of the block; each tensor starts at a multiple of kTensorAlignBytes
};

// Of the bucket's inputs, or of its outputs.
SmallRows SmallRowsOf(const std::vector<TensorSpec>& tensors, const Bucket& bucket);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_SMALL_ROWS_H_
