#include "models/tensor_layout.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "models/float_bits.h"

namespace abacus {
namespace {

bool AllHaveRows(const std::vector<TensorSpec>& tensors) {
  return std::ranges::all_of(tensors, [](const TensorSpec& tensor) { return HasDim(tensor, kBatchDim); });
}

}  // namespace

bool MayShareBatch(const ModelSpec& spec) { return MayBeSplit(spec) && AllHaveRows(spec.inputs); }

bool MayBeSplit(const ModelSpec& spec) { return spec.batchable && AllHaveRows(spec.outputs); }

TensorLayout LayoutOf(const ModelSpec& spec, int64_t rows, int64_t sequence) {
  TensorLayout layout;
  const auto place = [&](const std::vector<TensorSpec>& tensors, auto* extents) {
    for (const TensorSpec& tensor : tensors) {
      // The parser bounded the largest bucket by 1 TiB, of which a query has kMaxQueryParts at most: nothing overflows,
      // and the optional is not empty.
      const uint64_t bytes = ShapeAt(tensor, rows, sequence).Elements().value_or(0) * DTypeBytes(tensor.dtype);
      extents->push_back({layout.total_bytes, bytes});
      layout.total_bytes += TensorAligned(bytes);
    }
  };
  place(spec.inputs, &layout.inputs);
  place(spec.outputs, &layout.outputs);
  return layout;
}

TensorLayout PartOf(const ModelSpec& spec, int64_t query_rows, int64_t sequence, int64_t first_row, int64_t rows) {
  TensorLayout layout = LayoutOf(spec, query_rows, sequence);
  const auto narrow = [&](const std::vector<TensorSpec>& tensors, auto* extents) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!HasDim(tensors[i], kBatchDim)) continue;
      const uint64_t row_bytes = (*extents)[i].bytes / static_cast<uint64_t>(query_rows);
      (*extents)[i].offset_bytes += static_cast<uint64_t>(first_row) * row_bytes;
      (*extents)[i].bytes = static_cast<uint64_t>(rows) * row_bytes;
    }
  };
  narrow(spec.inputs, &layout.inputs);
  narrow(spec.outputs, &layout.outputs);
  return layout;
}

RowSlab SlabOf(const TensorSpec& tensor, const Bucket& bucket, int64_t first_row, int64_t rows, int64_t sequence) {
  // Row-major: dimensions before the sequence repeat a piece, those from it on make up one.
  uint64_t count = 1, query_piece = DTypeBytes(tensor.dtype), batch_piece = query_piece, batch_row = query_piece;
  bool has_sequence = false;
  for (size_t i = tensor.dims.rank(); i-- > 0;) {
    const int64_t dim = tensor.dims[i];
    if (dim == kBatchDim) break;  // the first dimension only
    const bool is_sequence = dim == kSequenceDim;
    const auto query_size = static_cast<uint64_t>(is_sequence ? sequence : dim);
    const auto batch_size = static_cast<uint64_t>(is_sequence ? bucket.sequence : dim);
    if (has_sequence) {
      count *= query_size;
    } else {
      query_piece *= query_size;
      batch_piece *= batch_size;
    }
    batch_row *= batch_size;
    has_sequence |= is_sequence;
  }
  const bool has_batch = tensor.dims.rank() > 0 && tensor.dims[0] == kBatchDim;
  if (has_batch) count *= static_cast<uint64_t>(rows);
  RowSlab slab{has_batch ? static_cast<uint64_t>(first_row) * batch_row : 0, batch_piece, query_piece, count};
  if (query_piece == batch_piece) return {slab.batch_offset_bytes, query_piece * count, query_piece * count, 1};
  return slab;
}

void GatherRows(std::byte* batch, const std::byte* query, const RowSlab& slab) {
  for (uint64_t i = 0; i < slab.count; ++i) {
    std::memcpy(batch + slab.batch_offset_bytes + i * slab.batch_pitch_bytes, query + i * slab.piece_bytes,
                slab.piece_bytes);
  }
}

void ScatterRows(std::byte* query, const std::byte* batch, const RowSlab& slab) {
  for (uint64_t i = 0; i < slab.count; ++i) {
    std::memcpy(query + i * slab.piece_bytes, batch + slab.batch_offset_bytes + i * slab.batch_pitch_bytes,
                slab.piece_bytes);
  }
}

void FillPadding(std::span<std::byte> bytes, const TensorSpec& input) {
  uint64_t element = 0;  // little endian: its low bytes are the value
  if (input.float_range) {
    element = NearestFloat(std::clamp(0.0, input.float_range->low, input.float_range->high), input.dtype);
  } else if (InfoOf(input.dtype).integer) {
    element =
        static_cast<uint64_t>(input.range ? std::clamp(input.pad, input.range->low, input.range->high) : input.pad);
  }
  if (element == 0) {  // zero in every type
    std::memset(bytes.data(), 0, bytes.size());
    return;
  }
  const size_t width = DTypeBytes(input.dtype);
  for (size_t at = 0; at + width <= bytes.size(); at += width) std::memcpy(bytes.data() + at, &element, width);
}

}  // namespace abacus
