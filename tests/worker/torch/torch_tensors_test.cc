#include "worker/torch/torch_tensors.h"

#include <ATen/ops/complex.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>

#include "tests/worker/torch/test_models.h"

namespace abacus {
namespace {

using test::FloatTensor;
using ::testing::HasSubstr;

ModelSpec MakeSpec() {
  ModelSpec spec;
  spec.name = "spec";
  spec.batch_sizes = {1, 4};
  spec.sequence_lengths = {8, 64};
  spec.outputs = {FloatTensor("y", {kBatchDim, 2})};
  return spec;
}

TEST(CompareOutputsTest, MeasuresRelativeToTheLargestValue) {
  const BucketPlan plan = PlanBucket(MakeSpec(), 0);
  const std::vector<at::Tensor> expected = {at::full({1, 2}, 100.0)};
  const std::vector<at::Tensor> actual = {at::full({1, 2}, 100.5)};
  EXPECT_NEAR(CompareOutputs(plan, expected, actual, 0.01).value(), 0.005, 1e-9);
  const Result<double> refused = CompareOutputs(plan, expected, actual, 0.001);
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message(), HasSubstr("output \"y\" at batch 1, sequence 8 differs"));
  EXPECT_THAT(refused.error().message(), HasSubstr("0.005"));
  EXPECT_THAT(refused.error().message(), HasSubstr("tolerance is 0.001"));
}

TEST(CompareOutputsTest, NaNAndInfinityMustBeWhereTheReferenceHasThem) {
  const BucketPlan plan = PlanBucket(MakeSpec(), 0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor finite = at::ones({1, 2});
  const at::Tensor half_nan = at::stack({at::ones({1}), at::full({1}, nan)}, 1);
  EXPECT_THAT(CompareOutputs(plan, {finite}, {half_nan}, 1.0).error().message(), HasSubstr("is not finite where"));
  EXPECT_EQ(CompareOutputs(plan, {half_nan}, {half_nan}, 0.0).value(), 0.0);
  EXPECT_THAT(CompareOutputs(plan, {half_nan}, {finite}, 1.0).error().message(), HasSubstr("lost NaN"));
  const double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor up = at::full({1, 2}, infinity);
  EXPECT_EQ(CompareOutputs(plan, {up}, {up}, 0.0).value(), 0.0);
  for (const double other : {-infinity, 1.0, nan}) {
    EXPECT_THAT(CompareOutputs(plan, {up}, {at::full({1, 2}, other)}, 1.0).error().message(),
                HasSubstr("lost an infinity"));
  }
}

TEST(FlattenOutputsTest, TakesTensorsTuplesAndListsOnly) {
  const at::Tensor t = at::ones({1});
  EXPECT_EQ(FlattenOutputs(t)->size(), 1u);
  EXPECT_EQ(FlattenOutputs(c10::ivalue::Tuple::create({t, t}))->size(), 2u);
  EXPECT_EQ(FlattenOutputs(std::vector<at::Tensor>{t, t, t})->size(), 3u);
  EXPECT_THAT(FlattenOutputs(int64_t{1}).error().message(), HasSubstr("forward() returns Int"));
  EXPECT_FALSE(FlattenOutputs(c10::ivalue::Tuple::create({t, int64_t{1}})).has_value());
}

TEST(CompareOutputsTest, IntegersAndBoolsMustBeEqual) {
  ModelSpec spec = MakeSpec();
  spec.outputs[0].dtype = DType::kInt64;
  const BucketPlan plan = PlanBucket(spec, 0);
  const int64_t large = (int64_t{1} << 53) + 2;  // where a double holds even integers alone
  const at::TensorOptions integers(at::kLong);
  const at::Tensor expected = at::full({1, 2}, large, integers);
  EXPECT_EQ(CompareOutputs(plan, {expected}, {expected.clone()}, 0.0).value(), 0.0);
  EXPECT_THAT(CompareOutputs(plan, {expected}, {at::full({1, 2}, large + 1, integers)}, 0.5).error().message(),
              HasSubstr("differs from the reference in 2 of its 2 integers"));
  const at::TensorOptions bools(at::kBool);
  EXPECT_FALSE(CompareOutputs(plan, {at::full({1, 2}, true, bools)}, {at::full({1, 2}, false, bools)}, 2.0));
}

TEST(FlattenOutputsTest, NamesWhatIsNoTensor) {
  const at::Tensor t = at::ones({1});
  EXPECT_THAT(FlattenOutputs(c10::ivalue::Tuple::create({t, c10::IValue()})).error().message(),
              HasSubstr("a Tuple with None at position 1"));
  EXPECT_THAT(FlattenOutputs(c10::ivalue::Tuple::create({c10::ivalue::Tuple::create({t, t}), t})).error().message(),
              HasSubstr("a Tuple with Tuple at position 0"));
  c10::Dict<std::string, at::Tensor> dictionary;
  dictionary.insert("logits", t);
  EXPECT_THAT(FlattenOutputs(dictionary).error().message(), HasSubstr("forward() returns GenericDict"));
}

TEST(CheckOutputsTest, NamesATypeThatTheProtocolLacks) {
  const at::Tensor complex = at::complex(at::ones({1, 2}), at::ones({1, 2}));
  EXPECT_THAT(CheckOutputs(PlanBucket(MakeSpec(), 0), std::vector{complex}).message(),
              HasSubstr("output \"y\" is ComplexFloat, which the protocol has no type for"));
}

TEST(CompareSpecialTest, MissesNoLostNanNorInfinity) {
  const auto compare = [](std::vector<float> expected, std::vector<float> actual, bool nan) {
    return CompareSpecial("here", at::tensor(expected), at::tensor(actual), nan, 1e-3);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const bool holds_nan : {false, true}) {
    for (const float value : {nan, inf, -inf}) {
      EXPECT_TRUE(compare({value, 1, 2}, {value, 1, 2}, holds_nan));
      EXPECT_FALSE(compare({value, 1, 2}, {0, 1, 2}, holds_nan)) << value;
    }
    EXPECT_TRUE(compare({nan, 1, 2}, {nan, nan, 2}, holds_nan)) << "spread by a kernel";
    EXPECT_TRUE(compare({inf, 1, 2}, {nan, 1, 2}, holds_nan));
    EXPECT_FALSE(compare({nan, 1, 2}, {nan, nan, 3}, holds_nan));
    EXPECT_EQ(compare({nan, 1, 2}, {inf, 1, 2}, holds_nan).has_value(), !holds_nan);
  }
  const at::Tensor one = at::tensor(std::vector<int64_t>{1}), two = at::tensor(std::vector<int64_t>{2});
  EXPECT_TRUE(CompareSpecial("here", one, two, true, 0)) << "an argmax, say";
}

TEST(SameBitsTest, TellsNaNsAndZerosByTheirBits) {
  const at::Tensor nan = at::full({2}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(SameBits(nan, nan.clone()));
  EXPECT_FALSE(SameBits(at::full({2}, 0.0f), at::full({2}, -0.0f)));
}

TEST(ErrorTextTest, NamesTheLineOfATracedModelThatFailed) {
  const std::runtime_error error(R"(The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, serialized code (most recent call last):
  File "code/__torch__/models.py", line 13, in forward
    a = self.a
    b = torch.to(lengths, 4)
        ~~~~~~~~ <--- HERE
    return b

Traceback of TorchScript, original code (most recent call last):
/usr/lib/python/torch/nn/utils/rnn.py(323): pack_padded_sequence
models.py(97): forward
/usr/lib/python/torch/nn/modules/module.py(1769): _slow_forward
RuntimeError: operation not permitted
)");
  EXPECT_EQ(ErrorText(error), "models.py(97): `b = torch.to(lengths, 4)`: operation not permitted");
  EXPECT_EQ(ErrorText(std::runtime_error("plain")), "plain");
}

}  // namespace
}  // namespace abacus
