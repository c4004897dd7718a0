// The CUDA runtime, through the factory as the worker uses it. Every test is skipped on a machine without a GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/torch/test_models.h"
#include "worker/runtime_factory.h"

namespace abacus {
namespace {

using test::Job;
using ::testing::HasSubstr;

Result<std::unique_ptr<TorchRuntime>> Load(const ModelSpec& spec) {
  RuntimeOptions options;
  options.device = RuntimeOptions::Device::kCuda;
  options.graph_cache = 8;
  return LoadTorchRuntime(spec, options);
}

class GraphRuntimeTest : public ::testing::TestWithParam<test::TestModel> {};

TEST_P(GraphRuntimeTest, EveryCutGivesTheUncutOutputs) {
  const test::TempDir dir;
  const ModelSpec spec = GetParam().make(dir);
  Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec);
  if (!loaded && loaded.error().code() == StatusCode::kUnavailable) GTEST_SKIP() << loaded.error().message();
  ASSERT_TRUE(loaded.has_value()) << loaded.error().ToString();
  TorchRuntime& runtime = **loaded;
  for (uint32_t bucket = 0; bucket < spec.bucket_count(); ++bucket) {
    const std::vector<uint32_t>& cuts = runtime.ranges(bucket).cuts;
    Job job(spec, bucket, 1);
    Job other(spec, bucket, 2);
    ASSERT_TRUE(runtime.RunUncut(bucket, job.tensors()).ok());
    const auto expected = job.outputs();
    std::vector<std::vector<uint32_t>> chains = {{0, cuts.back()}, cuts};
    for (size_t i = 1; i + 1 < cuts.size(); ++i) chains.push_back({0, cuts[i], cuts.back()});
    for (const std::vector<uint32_t>& chain : chains) {
      ASSERT_TRUE(runtime.RunUncut(bucket, other.tensors()).ok());
      job.ClearOutputs();
      for (size_t i = 0; i + 1 < chain.size(); ++i) {
        const Status status = runtime.Run(bucket, chain[i], chain[i + 1], job.tensors());
        ASSERT_TRUE(status.ok()) << status.ToString();
      }
      EXPECT_EQ(job.outputs(), expected);
    }
    EXPECT_EQ(runtime.Run(bucket, cuts[1], cuts.back(), job.tensors()).code(), StatusCode::kInternal);
  }
  EXPECT_FALSE(runtime.IsFatal());
}

INSTANTIATE_TEST_SUITE_P(Models, GraphRuntimeTest, ::testing::ValuesIn(test::StraightLineModels()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(GraphRuntimeLoadTest, RefusesAModelThatReadsValuesBack) {
  const test::TempDir dir;
  ModelSpec spec = test::SaveModel(dir, "branch", test::MakeModule(R"(
def forward(self, x):
    if bool(torch.sum(x) > 0):
        x = torch.tanh(x)
    return x * 2.0
)"));
  spec.inputs = spec.outputs = {test::FloatTensor("x", {kBatchDim, 6})};
  const Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec);
  ASSERT_FALSE(loaded.has_value());
  if (loaded.error().code() == StatusCode::kUnavailable) GTEST_SKIP() << loaded.error().message();
  EXPECT_EQ(loaded.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(loaded.error().message(), HasSubstr("cannot capture the model in a CUDA graph"));
}

TEST(GraphRuntimeLoadTest, NamesAGpuThatDoesNotExist) {
  const test::TempDir dir;
  const ModelSpec spec = test::StraightLineModels().front().make(dir);
  RuntimeOptions options;
  options.device = RuntimeOptions::Device::kCuda;
  options.gpu = 99;
  const Result<std::unique_ptr<TorchRuntime>> loaded = LoadTorchRuntime(spec, options);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace abacus
