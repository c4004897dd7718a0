#include "worker/torch/load_check.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/relu.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/worker/torch/test_models.h"

namespace abacus {
namespace {

using test::FloatTensor;
using ::testing::HasSubstr;
using Tensors = std::vector<at::Tensor>;

class LoadCheckTest : public ::testing::Test {
 protected:
  LoadCheckTest() {
    spec_.name = "spec";
    spec_.batch_sizes = {1, 4};
    spec_.tolerance = 1e-3;
    spec_.inputs = {FloatTensor("x", {kBatchDim, 8})};
    spec_.outputs = {FloatTensor("y", {kBatchDim, 8})};
  }

  // Records `plain` and returns what comparing `other` with it says.
  Status Compare(const RunFn& plain, const RunFn& other, bool usual_only = false) {
    for (size_t b = 0; b < spec_.bucket_count(); ++b) plans_.push_back(PlanBucket(spec_, b));
    LoadCheck check(spec_, plans_);
    const Status recorded = check.Record(plain, usual_only, [this](std::string_view what) { warnings_ += what; });
    return recorded.ok() ? check.Compare(other) : recorded;
  }

  ModelSpec spec_;
  std::vector<BucketPlan> plans_;
  std::string warnings_;
};

TEST_F(LoadCheckTest, FindsWhatShowsAtOneScaleOnly) {
  const RunFn plain = [](const Tensors& x) { return Tensors{at::clamp(at::clamp(x[0], -1000, 1000), -20, 20)}; };
  const RunFn takes_the_first_bounds = [](const Tensors& x) { return Tensors{at::clamp(x[0], -1000, 1000)}; };
  EXPECT_TRUE(Compare(plain, plain).ok());
  EXPECT_THAT(Compare(plain, takes_the_first_bounds).message(),
              HasSubstr("output \"y\" at batch 1, inputs from pixels 0..255 differs"));
}

TEST_F(LoadCheckTest, TriesTheUsualScaleAloneWhereOthersMayHarm) {
  const RunFn plain = [](const Tensors& x) {
    EXPECT_LT(x[0].abs().max().item<float>(), 6);
    return Tensors{x[0] * 2};
  };
  EXPECT_TRUE(Compare(plain, plain, /*usual_only=*/true).ok());
}

TEST_F(LoadCheckTest, ADeclaredRangeIsNeverLeft) {
  spec_.inputs[0].float_range = FloatRange{0.01, 1};
  const RunFn plain = [](const Tensors& x) {
    EXPECT_GE(x[0].min().item<float>(), 0.0099f);
    EXPECT_LE(x[0].max().item<float>(), 1);
    return Tensors{at::log(x[0])};
  };
  EXPECT_TRUE(Compare(plain, plain).ok());
  EXPECT_EQ(warnings_, "");
}

TEST_F(LoadCheckTest, LeavesOutWhatThePlainModuleCannotDoAtOtherScales) {
  const RunFn overflows = [](const Tensors& x) -> Result<Tensors> {
    if (x[0].abs().max().item<float>() > 300) return Error(StatusCode::kInvalidArgument, "too large");
    return Tensors{(x[0] * 1e37f)};  // infinite for pixels
  };
  EXPECT_TRUE(Compare(overflows, overflows).ok());
  EXPECT_EQ(warnings_, "");
  const RunFn never = [](const Tensors&) -> Result<Tensors> { return Error(StatusCode::kInvalidArgument, "no"); };
  EXPECT_THAT(Compare(never, never).message(), HasSubstr("at batch 1: no"));
}

TEST_F(LoadCheckTest, FindsNaNThatGetsLost) {
  const RunFn plain = [](const Tensors& x) { return Tensors{at::relu(x[0])}; };
  const RunFn loses = [](const Tensors& x) { return Tensors{at::relu(at::nan_to_num(x[0], 0.0))}; };
  EXPECT_THAT(Compare(plain, loses).message(), HasSubstr("with NaN in the inputs lost NaN"));
}

TEST_F(LoadCheckTest, FindsAnInfinityThatGetsLost) {
  const RunFn plain = [](const Tensors& x) { return Tensors{at::relu(x[0])}; };
  const RunFn loses = [](const Tensors& x) { return Tensors{at::clamp(at::relu(x[0]), 0, 1e30)}; };
  EXPECT_THAT(Compare(plain, loses).message(), HasSubstr("with Inf in the inputs lost an infinity"));
}

TEST_F(LoadCheckTest, FindsWhatShowsInTheLargestBucketOnly) {
  const RunFn plain = [](const Tensors& x) { return Tensors{x[0] * 2}; };
  const RunFn other = [](const Tensors& x) { return Tensors{x[0].size(0) == 4 ? x[0] * 3 : x[0] * 2}; };
  EXPECT_THAT(Compare(plain, other).message(), HasSubstr("at batch 4, inputs from N(0, 1) differs"));
}

TEST_F(LoadCheckTest, WarnsOfOutputsThatAreNotFiniteForUsualInputs) {
  const RunFn plain = [](const Tensors& x) { return Tensors{at::log(x[0])}; };
  EXPECT_TRUE(Compare(plain, plain).ok());
  EXPECT_THAT(warnings_, HasSubstr("output \"y\" of the plain module is not finite at batch 1, inputs from N(0, 1)"));
}

}  // namespace
}  // namespace abacus
