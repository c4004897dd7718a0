#include "controller/intake/admission.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

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
  std::string RejectedField(const ModelSpec& spec) {
    Admitted admitted;
    const auto result = Admit(spec, request_, payloads_, &admitted);
    if (result) return "admitted";
    EXPECT_EQ(result.error().code, StatusCode::kInvalidArgument);
    EXPECT_FALSE(result.error().message.empty());
    return result.error().field;
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
  Give({{"x", DType::kFloat32, {5, 4}}});
  EXPECT_EQ(RejectedField(image_), "inputs") << "above the largest bucket";
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

TEST_F(AdmissionTest, FloatsPassThroughUnchecked) {
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
  request_.batch = 5;
  EXPECT_EQ(RejectedField(image_), "synthetic.batch");
}

}  // namespace
}  // namespace abacus
