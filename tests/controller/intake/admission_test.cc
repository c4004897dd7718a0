#include "controller/intake/admission.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "shm/layout.h"
#include "tests/support/specs.h"

namespace abacus {
namespace {

using protocol::Request;
using protocol::TensorHeader;

class AdmissionTest : public testing::Test {
 protected:
  AdmissionTest() { text_.inputs.push_back({"mask", DType::kFloat32, Shape{kBatchDim, kSequenceDim}, {}, 0}); }

  // A request with zero-filled payloads of the right size.
  void Give(std::vector<TensorHeader> inputs) {
    request_.inputs = std::move(inputs);
    storage_.clear();
    payloads_.clear();
    for (const TensorHeader& t : request_.inputs) {
      storage_.emplace_back(t.shape.Elements().value_or(0) * DTypeBytes(t.dtype));
    }
    for (auto& bytes : storage_) payloads_.emplace_back(bytes);
  }
  // As it goes with a query: first its form, then the values in the copy, which is in the order of the spec.
  Rejection Rejected(const ModelSpec& spec) {
    Admitted admitted;
    auto result = Admit(spec, request_, payloads_, &admitted);
    std::vector<std::span<const std::byte>> inputs;
    for (const uint32_t i : admitted.input_order) {
      if (result) inputs.push_back(payloads_[i]);
    }
    if (result && !request_.synthetic) result = CheckValues(spec, admitted, inputs);
    if (result) return {StatusCode::kOk, "admitted", "admitted"};
    EXPECT_EQ(result.error().code, StatusCode::kInvalidArgument);
    EXPECT_FALSE(result.error().message.empty());
    return result.error();
  }
  std::string RejectedField(const ModelSpec& spec) { return Rejected(spec).field; }
  std::string RejectedMessage(const ModelSpec& spec) { return Rejected(spec).message; }
  // Gives one tensor with these elements.
  template <class T>
  void GiveValues(const std::string& name, DType dtype, const Shape& shape, const std::vector<T>& values) {
    Give({{name, dtype, shape}});
    ASSERT_EQ(storage_[0].size(), values.size() * sizeof(T));
    std::memcpy(storage_[0].data(), values.data(), storage_[0].size());
  }

  const ModelSpec image_ = test::ImageSpec();
  ModelSpec text_ = test::TextSpec();
  Request request_;
  std::vector<std::vector<std::byte>> storage_;
  std::vector<std::span<const std::byte>> payloads_;
};

TEST_F(AdmissionTest, ReadsRowsAndLengthOffTheTensors) {
  Admitted admitted;
  Give({{"x", DType::kFloat32, {3, 4}}});
  ASSERT_TRUE(Admit(image_, request_, payloads_, &admitted));
  EXPECT_EQ(admitted.batch, 3) << "its own, not the bucket's";
  EXPECT_EQ(admitted.sequence, 0);
  Give({{"mask", DType::kFloat32, {1, 5}}, {"ids", DType::kInt64, {1, 5}}});  // any order
  ASSERT_TRUE(Admit(text_, request_, payloads_, &admitted));
  EXPECT_EQ(admitted.batch, 1);
  EXPECT_EQ(admitted.sequence, 5);
  EXPECT_EQ(admitted.input_order, (std::vector<uint32_t>{1, 0}));
}

TEST_F(AdmissionTest, NamesTheFieldOfEveryMistake) {
  Give({{"z", DType::kFloat32, {1, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs[0].name");
  Give({{"x", DType::kFloat16, {1, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs[0].dtype");
  Give({{"x", DType::kFloat32, {1, 4, 1}}});
  EXPECT_EQ(RejectedField(image_), "inputs[0].shape");
  Give({{"x", DType::kFloat32, {1, 5}}});
  EXPECT_EQ(RejectedField(image_), "inputs[0].shape");
  Give({{"x", DType::kFloat32, {0, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs[0].shape");
  Give({{"x", DType::kFloat32, {-1, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs[0].shape");
  Give({{"x", DType::kFloat32, {INT64_MAX, 4}}});
  EXPECT_NE(RejectedField(image_), "admitted");
  Give({});
  EXPECT_EQ(RejectedField(image_), "inputs") << "missing input";
  Give({{"x", DType::kFloat32, {1, 4}}, {"x", DType::kFloat32, {1, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs[1].name") << "given twice";
  Give({{"x", DType::kFloat32, {1, 4}}, {"y", DType::kFloat32, {1, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs[1].name") << "extra input";
  Give({{"ids", DType::kInt64, {1, 9}}, {"mask", DType::kFloat32, {1, 9}}});
  EXPECT_EQ(RejectedField(text_), "inputs") << "sequence above the largest bucket";
  Give({{"ids", DType::kInt64, {1, 4}}, {"mask", DType::kFloat32, {1, 3}}});
  EXPECT_EQ(RejectedField(text_), "inputs[1].shape") << "inputs disagree about the sequence";
  Give({{"ids", DType::kInt64, {2, 4}}, {"mask", DType::kFloat32, {1, 4}}});
  EXPECT_EQ(RejectedField(text_), "inputs[1].shape") << "inputs disagree about the batch";
}

TEST_F(AdmissionTest, BytesMustMatchTheShape) {
  Give({{"x", DType::kFloat32, {2, 4}}});
  payloads_[0] = payloads_[0].first(31);
  EXPECT_EQ(RejectedField(image_), "inputs[0]");
  payloads_.clear();
  EXPECT_EQ(RejectedField(image_), "inputs") << "no frame for the tensor";
}

TEST_F(AdmissionTest, ValuesMustBeInRange) {
  for (const int64_t bad : {int64_t{-1}, int64_t{100}, INT64_MIN, INT64_MAX}) {
    Give({{"ids", DType::kInt64, {1, 4}}, {"mask", DType::kFloat32, {1, 4}}});
    std::memcpy(storage_[0].data() + 3 * sizeof(bad), &bad, sizeof(bad));
    EXPECT_EQ(RejectedField(text_), "inputs[0]") << bad;
  }
}

TEST_F(AdmissionTest, RowsThatDependOnEachOtherTakeExactBatches) {
  ModelSpec stats = test::ImageSpec();
  stats.name = "stats";
  stats.batch_sizes = {2, 4};
  stats.batchable = false;
  for (const int64_t rows : {1, 3, 5}) {
    Give({{"x", DType::kFloat32, {rows, 4}}});
    EXPECT_EQ(RejectedField(stats), "inputs") << rows;
    EXPECT_EQ(RejectedMessage(stats), "batch " + std::to_string(rows) +
                                          ": rows of a batch of stats depend on each other, so only batches of 2, 4 "
                                          "are served");
  }
  for (const int64_t rows : {2, 4}) {
    Give({{"x", DType::kFloat32, {rows, 4}}});
    EXPECT_EQ(RejectedField(stats), "admitted") << rows;
  }
  stats.batchable = true;
  Give({{"x", DType::kFloat32, {3, 4}}});
  EXPECT_EQ(RejectedField(stats), "admitted") << "padded to 4";
}

TEST_F(AdmissionTest, SequencesThatPaddingWouldChangeTakeExactLengths) {
  ModelSpec pool = test::TextSpec();
  pool.name = "mean-pool";
  pool.sequence_lengths = {8, 16};
  pool.sequence_padding = SequencePadding::kExact;
  for (const int64_t length : {1, 5, 9, 17}) {
    Give({{"ids", DType::kInt64, {1, length}}});
    EXPECT_EQ(RejectedField(pool), "inputs") << length;
    EXPECT_EQ(RejectedMessage(pool), "sequence " + std::to_string(length) +
                                         ": padding would change the answers of mean-pool; served lengths are 8, 16");
  }
  for (const int64_t length : {8, 16}) {
    Give({{"ids", DType::kInt64, {1, length}}});
    EXPECT_EQ(RejectedField(pool), "admitted") << length;
  }
  for (const SequencePadding padded : {SequencePadding::kHarmless, SequencePadding::kAllowed}) {
    pool.sequence_padding = padded;
    Give({{"ids", DType::kInt64, {1, 5}}});
    EXPECT_EQ(RejectedField(pool), "admitted");
  }
}

TEST_F(AdmissionTest, SyntheticQueriesTakeExactSizesToo) {
  ModelSpec spec = test::TextSpec();
  spec.batch_sizes = {2, 4};
  spec.batchable = false;
  spec.sequence_padding = SequencePadding::kExact;
  request_.synthetic = true;
  const auto rejected = [&](uint32_t batch, uint32_t sequence) {
    request_.batch = batch;
    request_.sequence = sequence;
    return RejectedField(spec);
  };
  EXPECT_EQ(rejected(3, 8), "synthetic.batch");
  EXPECT_EQ(rejected(2, 5), "synthetic.sequence");
  EXPECT_EQ(rejected(2, 8), "admitted");
}

TEST_F(AdmissionTest, FloatsOfADeclaredRangeStayInside) {
  ModelSpec spec = test::ImageSpec();
  spec.inputs[0].float_range = FloatRange{0.01, 1.0};
  const auto message = [&](float value) {
    GiveValues<float>("x", DType::kFloat32, {1, 4}, {0.5f, 0.01f, value, 1.0f});
    return RejectedMessage(spec);
  };
  EXPECT_EQ(message(0.5f), "admitted");
  EXPECT_EQ(message(0.0f), "x[2] is 0, allowed are 0.01 to 1");
  EXPECT_EQ(message(-0.25f), "x[2] is -0.25, allowed are 0.01 to 1");
  EXPECT_EQ(message(1.1f), "x[2] is 1.1, allowed are 0.01 to 1");
  EXPECT_EQ(message(std::numeric_limits<float>::quiet_NaN()), "x[2] is nan, allowed are 0.01 to 1");
  EXPECT_EQ(message(std::numeric_limits<float>::infinity()), "x[2] is inf, allowed are 0.01 to 1");
  EXPECT_EQ(RejectedField(spec), "inputs[0]");
}

TEST_F(AdmissionTest, ARangeMayEndAtTheQuerysOwnSequence) {
  ModelSpec spec = test::TextSpec();
  spec.inputs.push_back({"lengths", DType::kInt64, Shape{kBatchDim}, IntRange{1, 8, /*to_sequence=*/true}, 0});
  const auto message = [&](int64_t sequence, int64_t length) {
    Give({{"ids", DType::kInt64, {1, sequence}}, {"lengths", DType::kInt64, {1}}});
    std::memcpy(storage_[1].data(), &length, sizeof(length));
    return RejectedMessage(spec);
  };
  EXPECT_EQ(message(5, 1), "admitted");
  EXPECT_EQ(message(5, 5), "admitted");
  EXPECT_EQ(message(5, 6), "lengths[0] is 6, allowed are 1 to 5, the length of this query's sequence")
      << "the longest bucket would have held it";
  EXPECT_EQ(message(8, 6), "admitted");
  EXPECT_EQ(message(5, 0), "lengths[0] is 0, allowed are 1 to 5, the length of this query's sequence");
  EXPECT_EQ(RejectedField(spec), "inputs[1]");
}

TEST_F(AdmissionTest, ABooleanIsZeroOrOne) {
  ModelSpec spec = test::ImageSpec();
  spec.inputs[0].dtype = DType::kBool;
  GiveValues<uint8_t>("x", DType::kBool, {1, 4}, {0, 1, 1, 0});
  EXPECT_EQ(RejectedField(spec), "admitted");
  GiveValues<uint8_t>("x", DType::kBool, {1, 4}, {0, 1, 2, 0});
  EXPECT_EQ(RejectedMessage(spec), "x[2] is 2, allowed are 0 to 1");
}

TEST_F(AdmissionTest, FloatsWithoutARangePassUnchecked) {
  Give({{"x", DType::kFloat32, {1, 4}}});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(storage_[0].data(), &nan, sizeof(nan));
  EXPECT_EQ(RejectedField(image_), "admitted");
}

TEST_F(AdmissionTest, SyntheticQueriesNameTheirShape) {
  Admitted admitted;
  request_.synthetic = true;
  request_.batch = 2;
  request_.sequence = 6;
  ASSERT_TRUE(Admit(text_, request_, {}, &admitted));
  EXPECT_EQ(admitted.batch, 2);
  EXPECT_EQ(admitted.sequence, 6);
  EXPECT_TRUE(admitted.input_order.empty());
  EXPECT_EQ(RejectedField(image_), "synthetic.sequence");
  request_.sequence = 0;
  EXPECT_EQ(RejectedField(text_), "synthetic.sequence");
  EXPECT_EQ(RejectedField(image_), "admitted");
  request_.batch = 0;
  EXPECT_EQ(RejectedField(image_), "synthetic.batch");
  request_.batch = 4 * static_cast<uint32_t>(kMaxQueryParts);
  EXPECT_EQ(RejectedField(image_), "admitted");
  ++request_.batch;
  EXPECT_EQ(RejectedField(image_), "synthetic.batch");
}

TEST_F(AdmissionTest, MoreRowsThanTheLargestBatchRunInParts) {
  constexpr auto kParts = static_cast<int64_t>(kMaxQueryParts);
  Admitted admitted;
  for (const int64_t rows : {int64_t{5}, 4 * kParts}) {
    Give({{"x", DType::kFloat32, {rows, 4}}});
    ASSERT_TRUE(Admit(image_, request_, payloads_, &admitted)) << rows;
    EXPECT_EQ(admitted.batch, rows);
  }
  Give({{"x", DType::kFloat32, {4 * kParts + 1, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs");
  EXPECT_EQ(RejectedMessage(image_),
            "batch 257 is above 64 times the largest bucket of image (4); send several queries");
}

TEST_F(AdmissionTest, WhatCannotBeRunInPartsFitsTheLargestBatch) {
  ModelSpec sum = test::ImageSpec();  // one output for all rows together
  sum.outputs[0].dims = Shape{4};
  Give({{"x", DType::kFloat32, {4, 4}}});
  EXPECT_EQ(RejectedField(sum), "admitted");
  Give({{"x", DType::kFloat32, {5, 4}}});
  EXPECT_EQ(RejectedMessage(sum), "batch 5 is above the largest bucket of image (4)");
}

}  // namespace
}  // namespace abacus
