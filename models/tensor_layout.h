// Where the tensors of a query lie, and how its rows fit into the tensors of a batch.
//
// A query's tensors stand in one block of the arena at the query's own shape. A job takes the rows of one or more
// queries, or a part of the rows of one that is too large for a job, one after another, and runs in a bucket that holds
// them; what is missing to the bucket's size along batch and sequence is padding. Both sides of the copies are dense
// and row-major; where a tensor has a batch dimension, it is the first.
//
// Thread rule: pure functions on the caller's memory.
#ifndef ABACUS_MODELS_TENSOR_LAYOUT_H_
#define ABACUS_MODELS_TENSOR_LAYOUT_H_

#include <algorithm>
#include <boost/container/static_vector.hpp>
#include <cstddef>
#include <cstdint>
#include <span>

#include "models/model_spec.h"

namespace abacus {

struct TensorExtent {
  uint64_t offset_bytes = 0;  // from the start of the block
  uint64_t bytes = 0;
};
// Every tensor starts at a multiple of kTensorAlignBytes. Inputs come first, then outputs.
struct TensorLayout {
  boost::container::static_vector<TensorExtent, kMaxTensorsPerSide> inputs;
  boost::container::static_vector<TensorExtent, kMaxTensorsPerSide> outputs;
  uint64_t total_bytes = 0;
};
inline constexpr uint64_t kTensorAlignBytes = 256;
// The next multiple of it.
inline constexpr uint64_t TensorAligned(uint64_t bytes) {
  return (bytes + kTensorAlignBytes - 1) / kTensorAlignBytes * kTensorAlignBytes;
}

inline bool HasDim(const TensorSpec& tensor, int64_t symbol) {
  return std::ranges::find(tensor.dims.dims(), symbol) != tensor.dims.dims().end();
}

// Whether queries of this model may share a batch: its rows are independent, and no tensor is without rows, which could
// hold one query's value only.
bool MayShareBatch(const ModelSpec& spec);
// Whether the rows of a query may be run in several jobs: they are independent, and each output is made of rows. An
// input without rows is read by every part.
bool MayBeSplit(const ModelSpec& spec);

// Of a query with this many rows, at most kMaxQueryParts times those of the largest bucket, and this length, at most
// the largest bucket's. `sequence` 0: the model has none.
TensorLayout LayoutOf(const ModelSpec& spec, int64_t rows, int64_t sequence);
// Of a query that fills a bucket.
inline TensorLayout LayoutOf(const ModelSpec& spec, const Bucket& bucket) {
  return LayoutOf(spec, bucket.batch, bucket.sequence);
}

// Where rows [first_row, first_row + rows) of such a query lie in its block: a tensor without a batch dimension as a
// whole. `total_bytes` stays the whole block's.
TensorLayout PartOf(const ModelSpec& spec, int64_t query_rows, int64_t sequence, int64_t first_row, int64_t rows);

// The part of a batch tensor that holds one query's rows: `count` pieces of `piece_bytes`. In the query's tensor the
// pieces are dense; in the batch's they start at `batch_offset_bytes` and lie `batch_pitch_bytes` apart.
struct RowSlab {
  uint64_t batch_offset_bytes = 0;
  uint64_t batch_pitch_bytes = 0;
  uint64_t piece_bytes = 0;
  uint64_t count = 1;
};
// Of `rows` rows of a query of length `sequence`, the first of which is row `first_row` of the batch.
RowSlab SlabOf(const TensorSpec& tensor, const Bucket& bucket, int64_t first_row, int64_t rows, int64_t sequence);

void GatherRows(std::byte* batch, const std::byte* query, const RowSlab& slab);
void ScatterRows(std::byte* query, const std::byte* batch, const RowSlab& slab);

// Fills with the padding value of an input: `pad` for integers, zero for floats, moved into the declared range, since a
// padded value outside it would be as harmful as a client's. The parser keeps `pad` and the low end of a range up to
// the query's sequence within the shortest bucket, so what this fills in is inside in every bucket.
void FillPadding(std::span<std::byte> bytes, const TensorSpec& input);

}  // namespace abacus

#endif  // ABACUS_MODELS_TENSOR_LAYOUT_H_
