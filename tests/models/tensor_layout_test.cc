#include "models/tensor_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace abacus {
namespace {

constexpr int32_t kUntouched = -1;

template <class T>
std::byte* Bytes(std::vector<T>& v) {
  return reinterpret_cast<std::byte*>(v.data());
}

// Element at index `at` (row-major) of a tensor of this shape.
int32_t At(const std::vector<int32_t>& v, const Shape& shape, const std::vector<int64_t>& at) {
  uint64_t flat = 0;
  for (size_t d = 0; d < shape.rank(); ++d) {
    flat = flat * static_cast<uint64_t>(shape[d]) + static_cast<uint64_t>(at[d]);
  }
  return v[flat];
}

// Every index of `shape`, in order.
std::vector<std::vector<int64_t>> Indices(const Shape& shape) {
  std::vector<std::vector<int64_t>> all = {{}};
  for (size_t d = 0; d < shape.rank(); ++d) {
    std::vector<std::vector<int64_t>> next;
    for (const auto& prefix : all) {
      for (int64_t i = 0; i < shape[d]; ++i) {
        next.push_back(prefix);
        next.back().push_back(i);
      }
    }
    all = next;
  }
  return all;
}

struct Query {
  int64_t rows = 1;
  int64_t sequence = 0;
};
struct Case {
  Shape dims;
  Bucket bucket;
  std::vector<Query> queries;
};

const Case kCases[] = {
    {{kBatchDim}, {3, 0}, {{3, 0}}},
    {{kBatchDim}, {3, 0}, {{1, 0}, {2, 0}}},
    {{kBatchDim, 3}, {2, 0}, {{2, 0}}},          // fills the bucket
    {{kBatchDim, 3}, {4, 0}, {{2, 0}}},          // fewer rows
    {{kBatchDim, 3}, {4, 0}, {{1, 0}, {2, 0}}},  // of two queries
    {{kBatchDim, kSequenceDim}, {2, 3}, {{2, 3}}},
    {{kBatchDim, kSequenceDim}, {2, 5}, {{2, 3}}},  // shorter
    {{kBatchDim, kSequenceDim}, {1, 5}, {{1, 3}}},
    {{kBatchDim, kSequenceDim}, {4, 5}, {{2, 3}}},                  // both
    {{kBatchDim, kSequenceDim}, {4, 5}, {{1, 5}, {2, 3}, {1, 1}}},  // lengths of their own
    {{kBatchDim, kSequenceDim}, {1, 1}, {{1, 1}}},
    {{kBatchDim, kSequenceDim, 4}, {4, 5}, {{2, 3}}},  // a fixed dimension behind the sequence
    {{kBatchDim, kSequenceDim, 4}, {4, 5}, {{2, 3}, {1, 5}}},
    {{kBatchDim, 6, kSequenceDim}, {3, 4}, {{2, 3}}},  // before it
    {{kBatchDim, 6, kSequenceDim}, {3, 4}, {{1, 4}, {1, 3}}},
    {{kBatchDim, 2, kSequenceDim, 2}, {2, 5}, {{1, 3}}},  // on both sides
    {{kBatchDim, 2, kSequenceDim, 2}, {3, 5}, {{1, 3}, {1, 5}, {1, 1}}},
    {{kBatchDim, 2, 3, kSequenceDim, 2, 3}, {2, 4}, {{1, 2}, {1, 3}}},
    {{kSequenceDim}, {1, 5}, {{1, 3}}},  // no batch: one query's
    {{2, kSequenceDim, 3}, {1, 5}, {{1, 3}}},
    {{2, 3}, {1, 5}, {{1, 3}}},
    {{}, {1, 0}, {{1, 0}}},
};

std::string Text(const Case& c) {
  std::string text =
      c.dims.ToString() + " in " + std::to_string(c.bucket.batch) + " x " + std::to_string(c.bucket.sequence) + ":";
  for (const Query& query : c.queries) {
    text += " " + std::to_string(query.rows) + " x " + std::to_string(query.sequence);
  }
  return text;
}

TensorSpec Int32(const Shape& dims) { return {"t", DType::kInt32, dims, {}, 0}; }

// A case laid out: the queries' tensors with numbers of their own, and room for the batch's.
struct Batch {
  explicit Batch(const Case& c)
      : spec(Int32(c.dims)),
        shape(ShapeAt(spec, c.bucket.batch, c.bucket.sequence)),
        elements(*shape.Elements(), kUntouched) {
    int32_t next = 1;
    int64_t row = 0;
    for (const Query& query : c.queries) {
      query_shapes.push_back(ShapeAt(spec, query.rows, query.sequence));
      std::vector<int32_t>& tensor = tensors.emplace_back(*query_shapes.back().Elements());
      for (int32_t& element : tensor) element = next++;
      slabs.push_back(SlabOf(spec, c.bucket, row, query.rows, query.sequence));
      first_rows.push_back(row);
      row += query.rows;
    }
  }
  void Gather() {
    for (size_t q = 0; q < tensors.size(); ++q) GatherRows(Bytes(elements), Bytes(tensors[q]), slabs[q]);
  }
  // The number that belongs at this index of the batch; kUntouched: padding.
  int32_t Expected(std::vector<int64_t> at) const {
    const bool has_batch = spec.dims.rank() > 0 && spec.dims[0] == kBatchDim;
    for (size_t q = 0; q < tensors.size(); ++q) {
      std::vector<int64_t> inside = at;
      if (has_batch) inside[0] -= first_rows[q];
      bool in_query = true;
      for (size_t d = 0; d < inside.size(); ++d) in_query &= inside[d] >= 0 && inside[d] < query_shapes[q][d];
      if (in_query) return At(tensors[q], query_shapes[q], inside);
    }
    return kUntouched;
  }

  TensorSpec spec;
  Shape shape;
  std::vector<int32_t> elements;
  std::vector<std::vector<int32_t>> tensors;
  std::vector<Shape> query_shapes;
  std::vector<RowSlab> slabs;
  std::vector<int64_t> first_rows;
};

TEST(GatherRows, PutsEveryRowInItsPlaceAndLeavesThePadding) {
  for (const Case& c : kCases) {
    Batch batch(c);
    batch.Gather();
    for (const auto& at : Indices(batch.shape)) {
      ASSERT_EQ(At(batch.elements, batch.shape, at), batch.Expected(at)) << Text(c);
    }
  }
}

TEST(ScatterRows, UndoesGatherRows) {
  for (const Case& c : kCases) {
    Batch batch(c);
    const std::vector<std::vector<int32_t>> before = batch.tensors;
    batch.Gather();
    for (size_t q = 0; q < batch.tensors.size(); ++q) {
      std::vector<int32_t>& tensor = batch.tensors[q];
      std::fill(tensor.begin(), tensor.end(), 0);
      tensor.push_back(kUntouched);  // behind the query's tensor
      ScatterRows(Bytes(tensor), Bytes(batch.elements), batch.slabs[q]);
      EXPECT_EQ(tensor.back(), kUntouched) << Text(c);
      tensor.pop_back();
      EXPECT_EQ(tensor, before[q]) << Text(c) << ", query " << q;
    }
  }
}

TEST(SlabOf, IsOnePieceWhereTheRowsAreWhole) {
  for (const Case& c : kCases) {
    const Batch batch(c);
    for (size_t q = 0; q < batch.slabs.size(); ++q) {
      const RowSlab& slab = batch.slabs[q];
      EXPECT_EQ(slab.count * slab.piece_bytes, batch.tensors[q].size() * sizeof(int32_t)) << Text(c);
      if (c.queries[q].sequence == c.bucket.sequence) {
        EXPECT_EQ(slab.count, 1u) << Text(c);
      }
    }
  }
}

TEST(SlabOf, CountsInTheElementsOfEveryType) {
  for (const DType dtype : {DType::kUInt8, DType::kFloat16, DType::kInt32, DType::kFloat64}) {
    const TensorSpec tensor{"t", dtype, {kBatchDim, 2, kSequenceDim, 3}, {}, 0};
    const RowSlab slab = SlabOf(tensor, {8, 10}, 5, 2, 4);
    const uint64_t width = DTypeBytes(dtype);
    EXPECT_EQ(slab.batch_offset_bytes, 5 * 2 * 10 * 3 * width);
    EXPECT_EQ(slab.batch_pitch_bytes, 10 * 3 * width);
    EXPECT_EQ(slab.piece_bytes, 4 * 3 * width);
    EXPECT_EQ(slab.count, 2 * 2u);
  }
}

// Gathered into padding, a batch holds the queries' elements and the padding value everywhere else.
TEST(FillPadding, FillsWhatTheQueriesLeave) {
  for (const Case& c : kCases) {
    Batch batch(c);
    TensorSpec input = batch.spec;
    input.pad = 77'777;
    FillPadding({Bytes(batch.elements), batch.elements.size() * sizeof(int32_t)}, input);
    batch.Gather();
    for (const auto& at : Indices(batch.shape)) {
      const int32_t expected = batch.Expected(at);
      ASSERT_EQ(At(batch.elements, batch.shape, at), expected == kUntouched ? 77'777 : expected) << Text(c);
    }
  }
}

template <class T>
std::vector<T> Padded(const TensorSpec& input) {
  std::vector<T> v(3, T{9});
  FillPadding({Bytes(v), v.size() * sizeof(T)}, input);
  return v;
}

TEST(FillPadding, StaysInsideTheDeclaredRange) {
  TensorSpec input{"ids", DType::kInt64, {kBatchDim}, IntRange{10, 99}, 0};
  EXPECT_EQ(Padded<int64_t>(input), std::vector<int64_t>(3, 10));
  input.pad = 50;
  EXPECT_EQ(Padded<int64_t>(input), std::vector<int64_t>(3, 50));
  input.pad = 100;
  EXPECT_EQ(Padded<int64_t>(input), std::vector<int64_t>(3, 99));
  input.range = IntRange{INT64_MIN, -5};
  EXPECT_EQ(Padded<int64_t>(input), std::vector<int64_t>(3, -5));
}

TEST(FillPadding, KnowsEveryWidth) {
  const auto check = [](auto value, DType dtype) {
    using T = decltype(value);
    EXPECT_EQ(Padded<T>({"t", dtype, {kBatchDim}, {}, value}), std::vector<T>(3, value)) << DTypeName(dtype);
    EXPECT_EQ(Padded<T>({"t", dtype, {kBatchDim}, {}, 0}), std::vector<T>(3, T{0})) << DTypeName(dtype);
  };
  check(int64_t{-3'000'000'000}, DType::kInt64);
  check(int32_t{-70'000}, DType::kInt32);
  check(int16_t{-300}, DType::kInt16);
  check(int8_t{-3}, DType::kInt8);
  check(uint8_t{200}, DType::kUInt8);
  check(uint8_t{1}, DType::kBool);
}

TEST(FillPadding, PadsFloatsWithZero) {
  for (const int64_t pad : {0, 3}) {
    EXPECT_EQ(Padded<float>({"x", DType::kFloat32, {kBatchDim}, {}, pad}), std::vector<float>(3, 0.0f));
    EXPECT_EQ(Padded<double>({"x", DType::kFloat64, {kBatchDim}, {}, pad}), std::vector<double>(3, 0.0));
    EXPECT_EQ(Padded<uint16_t>({"x", DType::kFloat16, {kBatchDim}, {}, pad}), std::vector<uint16_t>(3, 0));
  }
}

TEST(FillPadding, MovesZeroIntoTheRangeOfFloats) {
  const auto input = [](DType dtype, double low, double high) {
    return TensorSpec{"x", dtype, {kBatchDim}, {}, 0, FloatRange{low, high}};
  };
  EXPECT_EQ(Padded<float>(input(DType::kFloat32, 0.1, 1)), std::vector<float>(3, 0.1f));
  EXPECT_EQ(Padded<float>(input(DType::kFloat32, -2, -0.5)), std::vector<float>(3, -0.5f));
  EXPECT_EQ(Padded<float>(input(DType::kFloat32, -1, 1)), std::vector<float>(3, 0.0f));
  EXPECT_EQ(Padded<double>(input(DType::kFloat64, 0.1, 1)), std::vector<double>(3, 0.1));
  EXPECT_EQ(Padded<uint16_t>(input(DType::kFloat16, 1.5, 2)), std::vector<uint16_t>(3, 0x3e00));
  EXPECT_EQ(Padded<uint16_t>(input(DType::kBFloat16, -2, -1.5)), std::vector<uint16_t>(3, 0xbfc0));
}

TEST(FillPadding, IsTheLowEndOfARangeUpToTheSequence) {
  TensorSpec input{"lengths", DType::kInt64, {kBatchDim}, IntRange{1, 512, /*to_sequence=*/true}, 0};
  EXPECT_EQ(Padded<int64_t>(input), std::vector<int64_t>(3, 1));
  input.range->low = 0;
  EXPECT_EQ(Padded<int64_t>(input), std::vector<int64_t>(3, 0));
}

TEST(LayoutOf, IsAlignedAndFollowsTheQuery) {
  ModelSpec spec;
  spec.inputs = {{"ids", DType::kInt64, {kBatchDim, kSequenceDim}, {}, 0}, {"x", DType::kFloat32, {3}, {}, 0}};
  spec.outputs = {{"y", DType::kFloat16, {kBatchDim, 7}, {}, 0}};
  const TensorLayout layout = LayoutOf(spec, 5, 9);
  ASSERT_EQ(layout.inputs.size(), 2u);
  ASSERT_EQ(layout.outputs.size(), 1u);
  EXPECT_EQ(layout.inputs[0].offset_bytes, 0u);
  EXPECT_EQ(layout.inputs[0].bytes, 5 * 9 * 8u);
  EXPECT_EQ(layout.inputs[1].offset_bytes, 512u);
  EXPECT_EQ(layout.inputs[1].bytes, 3 * 4u);
  EXPECT_EQ(layout.outputs[0].offset_bytes, 768u);
  EXPECT_EQ(layout.outputs[0].bytes, 5 * 7 * 2u);
  EXPECT_EQ(layout.total_bytes, 1024u);
  EXPECT_EQ(LayoutOf(spec, Bucket{5, 9}).total_bytes, layout.total_bytes);
  EXPECT_LT(LayoutOf(spec, 1, 1).total_bytes, layout.total_bytes);
}

// A model with a tensor of every kind: rows with and without a sequence, and none.
ModelSpec MixedSpec() {
  ModelSpec spec;
  spec.batch_sizes = {1, 4};
  spec.sequence_lengths = {16};
  spec.inputs = {{"ids", DType::kInt64, {kBatchDim, kSequenceDim}, {}, 0},
                 {"x", DType::kFloat32, {kBatchDim, 3}, {}, 0},
                 {"scale", DType::kFloat32, {5}, {}, 0}};
  spec.outputs = {{"y", DType::kFloat16, {kBatchDim, 7, kSequenceDim}, {}, 0}};
  return spec;
}

TEST(PartOf, IsWhereTheRowsLieInTheWholeQuery) {
  const ModelSpec spec = MixedSpec();
  constexpr int64_t kRows = 9, kSequence = 5;
  const TensorLayout whole = LayoutOf(spec, kRows, kSequence);
  for (int64_t first = 0; first < kRows; ++first) {
    for (int64_t rows = 1; first + rows <= kRows; ++rows) {
      const TensorLayout part = PartOf(spec, kRows, kSequence, first, rows);
      const auto f = static_cast<uint64_t>(first), n = static_cast<uint64_t>(rows);
      EXPECT_EQ(part.inputs[0].offset_bytes, whole.inputs[0].offset_bytes + f * 40);
      EXPECT_EQ(part.inputs[0].bytes, n * 40);
      EXPECT_EQ(part.inputs[1].offset_bytes, whole.inputs[1].offset_bytes + f * 12);
      EXPECT_EQ(part.inputs[1].bytes, n * 12);
      EXPECT_EQ(part.inputs[2].offset_bytes, whole.inputs[2].offset_bytes) << "every part has all of it";
      EXPECT_EQ(part.inputs[2].bytes, 20u);
      EXPECT_EQ(part.outputs[0].offset_bytes, whole.outputs[0].offset_bytes + f * 70);
      EXPECT_EQ(part.outputs[0].bytes, n * 70);
      EXPECT_EQ(part.total_bytes, whole.total_bytes);
    }
  }
}

TEST(LayoutOf, HasRoomForTheLargestQueryThatIsRunInParts) {
  ModelSpec spec = MixedSpec();
  spec.batch_sizes = {65'536};
  spec.outputs = {{"y", DType::kFloat64, {kBatchDim, (1 << 21) - 256}, {}, 0}};  // just below 1 TiB
  const int64_t most = spec.batch_sizes.back() * static_cast<int64_t>(kMaxQueryParts);
  const TensorLayout layout = LayoutOf(spec, most, 1);
  EXPECT_EQ(layout.outputs[0].bytes, static_cast<uint64_t>(most) * ((1 << 21) - 256) * 8);
  EXPECT_GT(layout.total_bytes, layout.outputs[0].bytes);
}

TEST(MayShareBatch, NeedsIndependentRowsInEveryTensor) {
  ModelSpec spec = MixedSpec();
  EXPECT_FALSE(MayShareBatch(spec)) << "whose scale?";
  EXPECT_TRUE(MayBeSplit(spec));
  spec.inputs.pop_back();
  EXPECT_TRUE(MayShareBatch(spec));
  EXPECT_TRUE(MayBeSplit(spec));
  spec.outputs.push_back({"count", DType::kInt64, {1}, {}, 0});
  EXPECT_FALSE(MayShareBatch(spec));
  EXPECT_FALSE(MayBeSplit(spec)) << "of which part?";
  spec.outputs.pop_back();
  spec.batchable = false;
  EXPECT_FALSE(MayShareBatch(spec));
  EXPECT_FALSE(MayBeSplit(spec));
}

}  // namespace
}  // namespace abacus
