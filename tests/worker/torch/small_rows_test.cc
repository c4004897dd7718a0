#include "worker/torch/small_rows.h"

#include <gtest/gtest.h>

namespace abacus {
namespace {

TensorSpec Bytes(const Shape& dims) { return {"t", DType::kUInt8, dims, {}, 0}; }

constexpr auto kSmall = static_cast<int64_t>(kSmallRowBytes);

TEST(SmallRowsOf, AreThoseUpToTheLimitWhateverTheBatch) {
  const std::vector<TensorSpec> tensors = {Bytes({kBatchDim, kSmall}), Bytes({kBatchDim, kSmall + 1}),
                                           Bytes({kBatchDim}), Bytes({kSmall + 1}), Bytes({kSmall})};
  for (const int64_t batch : {1, 64}) {
    const SmallRows small = SmallRowsOf(tensors, {batch, 0});
    ASSERT_EQ(small.tensors.size(), 5u);
    EXPECT_TRUE(small.tensors[0].has_value());
    EXPECT_FALSE(small.tensors[1].has_value());
    EXPECT_TRUE(small.tensors[2].has_value());
    EXPECT_FALSE(small.tensors[3].has_value()) << "without a batch dimension it is one row";
    EXPECT_TRUE(small.tensors[4].has_value());
  }
}

TEST(SmallRowsOf, CountsTheWholeSequenceOfTheBucket) {
  const std::vector<TensorSpec> tensors = {Bytes({kBatchDim, kSequenceDim, kSmall / 8})};
  EXPECT_TRUE(SmallRowsOf(tensors, {4, 8}).tensors[0].has_value());
  EXPECT_FALSE(SmallRowsOf(tensors, {4, 9}).tensors[0].has_value());
}

TEST(SmallRowsOf, LieOneAfterAnotherAligned) {
  const std::vector<TensorSpec> tensors = {Bytes({kBatchDim, 3}), Bytes({kBatchDim, kSmall + 1}),
                                           Bytes({kBatchDim, 256})};
  const SmallRows small = SmallRowsOf(tensors, {4, 0});
  EXPECT_EQ(small.tensors[0]->offset_bytes, 0u);
  EXPECT_EQ(small.tensors[0]->bytes, 12u);
  EXPECT_EQ(small.tensors[2]->offset_bytes, 256u);
  EXPECT_EQ(small.tensors[2]->bytes, 1024u);
  EXPECT_EQ(small.bytes, 1280u);
  EXPECT_EQ(SmallRowsOf({}, {4, 0}).bytes, 0u);
}

}  // namespace
}  // namespace abacus
