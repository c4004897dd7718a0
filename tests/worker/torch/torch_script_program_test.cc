#include "worker/torch/torch_script_program.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/ones.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "tests/worker/torch/test_models.h"
#include "tests/worker/torch/test_modules.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

using test::FloatTensor;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

using Loaded = Result<std::unique_ptr<TorchScriptProgram>>;

class TorchScriptProgramTest : public ::testing::Test {
 protected:
  // forward() is x W + 1 for x of [batch, 6] and W of [6, 8].
  ModelSpec MakeLinear() {
    ModelSpec spec = test::SaveModel(dir_, "linear",
                                     R"(
def forward(self, x):
    return torch.matmul(x, self.weight) + 1.0
)",
                                     {{"weight", {6, 8}}});
    spec.inputs = {FloatTensor("x", {kBatchDim, 6})};
    spec.outputs = {FloatTensor("y", {kBatchDim, 8})};
    return spec;
  }

  Loaded Load(const ModelSpec& spec) {
    return TorchScriptProgram::Load(spec, at::kCPU, [this](std::string_view stage) { stages_.emplace_back(stage); });
  }
  void ExpectRefused(const ModelSpec& spec, const std::string& reason) {
    const Loaded program = Load(spec);
    ASSERT_FALSE(program.has_value());
    EXPECT_EQ(program.error().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(program.error().message(), AllOf(HasSubstr("model \"" + spec.name + "\""), HasSubstr(reason)));
  }

  test::TempDir dir_;
  std::vector<std::string> stages_;
};

TEST_F(TorchScriptProgramTest, LoadsAndReportsEveryStep) {
  const Loaded program = Load(MakeLinear());
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  EXPECT_EQ((*program)->buckets().size(), 3u);
  EXPECT_EQ(stages_, (std::vector<std::string>{"load", "freeze", "check"}));
}

TEST_F(TorchScriptProgramTest, ReportsWhatForwardThrows) {
  const Loaded program = Load(MakeLinear());
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  const auto outputs = (*program)->Forward(0, {at::ones({1, 5})});
  ASSERT_FALSE(outputs.has_value());
  EXPECT_EQ(outputs.error().code(), StatusCode::kWorkerFailed);
}

TEST_F(TorchScriptProgramTest, NamesAMissingFile) {
  ModelSpec spec = MakeLinear();
  std::filesystem::remove(spec.file);
  const Loaded program = Load(spec);
  ASSERT_FALSE(program.has_value());
  EXPECT_EQ(program.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(program.error().message(), AllOf(HasSubstr("linear.pt"), HasSubstr("linear.toml")));
}

TEST_F(TorchScriptProgramTest, RefusesFilesThatAreNoModel) {
  const ModelSpec spec = MakeLinear();
  const auto bytes = std::filesystem::file_size(spec.file);
  for (const auto size : {bytes - 1, bytes / 2, bytes / 10}) {
    std::filesystem::resize_file(spec.file, size);
    ExpectRefused(spec, "not a usable TorchScript file");
  }
  std::ofstream(spec.file, std::ios::trunc) << "This is not a zip archive.";
  ExpectRefused(spec, "not a usable TorchScript file");
  std::ofstream(spec.file, std::ios::trunc).flush();
  ExpectRefused(spec, "not a usable TorchScript file");
}

TEST_F(TorchScriptProgramTest, AFlippedByteIsRefusedOrHarmless) {
  const ModelSpec spec = MakeLinear();
  std::string original(std::filesystem::file_size(spec.file), '\0');
  std::ifstream(spec.file, std::ios::binary).read(original.data(), static_cast<std::streamsize>(original.size()));
  size_t refused = 0;
  for (size_t at = 0; at < original.size(); at += original.size() / 40 + 1) {
    std::string damaged = original;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x5a);
    std::ofstream(spec.file, std::ios::binary | std::ios::trunc) << damaged;
    const Loaded program = Load(spec);  // returns, with a model or with an error: no crash
    refused += program.has_value() ? 0 : 1;
  }
  EXPECT_GT(refused, 0u);
}

TEST_F(TorchScriptProgramTest, RefusesOutputsThatContradictTheToml) {
  ModelSpec spec = MakeLinear();
  spec.outputs = {FloatTensor("y", {kBatchDim, 9})};
  ExpectRefused(spec, "output \"y\" at batch 1 is Float [1, 8], its TOML declares Float [1, 9]");
  spec.outputs = {{"y", DType::kFloat64, {kBatchDim, 8}, {}, 0}};
  ExpectRefused(spec, "its TOML declares Double [1, 8]");
  spec.outputs = {FloatTensor("y", {kBatchDim, 8}), FloatTensor("z", {kBatchDim, 8})};
  ExpectRefused(spec, "the model returns 1 outputs, its TOML declares 2");
}

TEST_F(TorchScriptProgramTest, RefusesInputsThatContradictTheToml) {
  ModelSpec spec = MakeLinear();
  spec.inputs.push_back(FloatTensor("second", {kBatchDim, 6}));
  ExpectRefused(spec, "forward() takes 1 inputs");
  spec.inputs = {FloatTensor("x", {kBatchDim, 5})};
  ExpectRefused(spec, "at batch 1: forward() failed");
}

TEST_F(TorchScriptProgramTest, RefusesAnOutputOfTheWrongShapeInTheLargestBucketOnly) {
  ModelSpec spec = test::SaveModel(dir_, "clipped", R"(
def forward(self, x):
    return torch.relu(x[:2])
)");
  spec.inputs = {FloatTensor("x", {kBatchDim, 6})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 6})};
  ExpectRefused(spec, "at batch 4 is Float [2, 6]");
}

TEST_F(TorchScriptProgramTest, DoesWithoutAStepThatIsOutsideTheTolerance) {
  // The batch norm is folded into the convolution, which changes the last bits.
  const std::string forward = R"(
def forward(self, x):
    y = torch.conv2d(x, self.weight)
    return torch.batch_norm(y, self.scale, self.shift, self.mean, self.variance, False, 0.1, 1e-05, False)
)";
  torch::jit::Module module =
      test::MakeModule("def unused(self, x):\n    return x\n",
                       {{"weight", {8, 3, 3, 3}}, {"scale", {8}}, {"shift", {8}}, {"mean", {8}}});
  module.register_buffer("variance", at::full({8}, 0.3));
  module.define(forward);
  ModelSpec spec = test::SaveModule(dir_, "batch-norm", module);
  spec.inputs = {FloatTensor("x", {kBatchDim, 3, 8, 8})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 8, 6, 6})};
  spec.batchable = false;
  EXPECT_TRUE(Load(spec).has_value());
  EXPECT_THAT(stages_, Not(Contains(HasSubstr("warning"))));
  spec.tolerance = 0;
  EXPECT_TRUE(Load(spec).has_value());
  EXPECT_THAT(
      stages_,
      Contains(AllOf(HasSubstr("warning: serving the model without folding into convolutions: "),
                     HasSubstr("changed the model: output \"y\" at batch 1, inputs from N(0, 1) differs from "))));
}

// What is put into a list later counts, for LibTorch, as one with everything in lists: here the constant ones.
TEST_F(TorchScriptProgramTest, MayWriteToWhatItMadeAndPutsIntoAList) {
  ModelSpec spec = test::SaveModel(dir_, "own",
                                   R"(
def forward(self, x):
    y = torch.gru(x, torch.zeros([1, x.size(0), 5]), [self.a, self.b, self.c, self.c], True, 1, 0.0, False, False, True)[0]
    y.mul_(y.sigmoid())
    parts = y.unbind(1)
    return parts[0] + parts[2]
)",
                                   {{"a", {15, 4}}, {"b", {15, 5}}, {"c", {15}}});
  spec.inputs = {FloatTensor("x", {kBatchDim, 3, 4})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 5})};
  const Loaded program = Load(spec);
  EXPECT_TRUE(program.has_value()) << program.error().message();
}

TEST_F(TorchScriptProgramTest, OneClampDoesNotTakeTheBoundsOfAnother) {
  ModelSpec spec = test::SaveModel(dir_, "clamps",
                                   R"(
def forward(self, x):
    y = torch.clamp(torch.conv2d(x, self.first), -1000.0, 1000.0)
    return torch.clamp(torch.conv2d(y, self.second), -20.0, 20.0)
)",
                                   {{"first", {8, 3, 3, 3}}, {"second", {4, 8, 3, 3}}});
  spec.inputs = {FloatTensor("x", {kBatchDim, 3, 8, 8})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 4, 4, 4})};
  const Loaded program = Load(spec);
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  const auto pixels = MakeSampleInputs(spec, 0, 1, SampleScale::kPixels);
  const auto outputs = (*program)->Forward(0, pixels);
  ASSERT_TRUE(outputs.has_value()) << outputs.error().ToString();
  EXPECT_EQ((*outputs)[0].abs().max().item<float>(), 20);
  EXPECT_TRUE(CompareOutputs((*program)->buckets()[0], *(*program)->Reference(0, pixels), *outputs, 1e-5));
}

// LibTorch folds a batch norm into the linear layer before it also where somebody else reads that layer.
TEST_F(TorchScriptProgramTest, ALayerThatIsNormalisedAndUsedAsItIsStaysBoth) {
  ModelSpec spec = test::SaveModel(dir_, "both",
                                   R"(
def forward(self, x):
    y = torch.linear(x, self.weight)
    z = torch.batch_norm(y, None, None, self.mean, self.mean * self.mean + 2.0, False, 0.1, 1e-5, False)
    return y, z
)",
                                   {{"weight", {8, 6}}, {"mean", {8}}});
  spec.inputs = {FloatTensor("x", {kBatchDim, 6})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 8}), FloatTensor("z", {kBatchDim, 8})};
  const Loaded program = Load(spec);
  ASSERT_TRUE(program.has_value()) << program.error().message();
  const std::vector<at::Tensor>& x = (*program)->buckets()[0].sample;
  const auto served = (*program)->Forward(0, x);
  const auto plain = (*program)->Reference(0, x);
  ASSERT_TRUE(served && plain);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(at::allclose((*served)[i], (*plain)[i], 1e-5, 1e-6)) << i;
}

TEST_F(TorchScriptProgramTest, NaNPassesThroughConvolutionsAndActivations) {
  ModelSpec spec = test::SaveModel(dir_, "nan",
                                   R"(
def forward(self, x):
    return torch.relu(torch.conv2d(torch.relu(torch.conv2d(x, self.first)), self.second))
)",
                                   {{"first", {8, 3, 3, 3}}, {"second", {8, 8, 3, 3}}});
  spec.inputs = {FloatTensor("x", {kBatchDim, 3, 16, 16})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 8, 12, 12})};
  const Loaded program = Load(spec);
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  for (int run = 0; run < 50; ++run) {
    const auto inputs = WithSpecialValue(spec, MakeSampleInputs(spec, 0, run), std::nan(""));
    const at::Tensor y = (*program)->Forward(0, inputs).value()[0];
    ASSERT_TRUE(at::isnan(y).any().item<bool>()) << "run " << run;
  }
}

TEST_F(TorchScriptProgramTest, IntegersAboveWhatADoubleHoldsAreServedExactly) {
  ModelSpec spec = test::SaveModel(dir_, "integers", "def forward(self, ids):\n    return ids * 3 + 1\n");
  spec.inputs = spec.outputs = {test::IntTensor("ids", {kBatchDim, 4}, {int64_t{1} << 53, int64_t{1} << 60})};
  const Loaded program = Load(spec);
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  const int64_t large = (int64_t{1} << 53) + 1;
  const at::Tensor ids = at::full({1, 4}, large, at::TensorOptions(at::kLong));
  EXPECT_EQ((*program)->Forward(0, {ids}).value()[0].max().item<int64_t>(), large * 3 + 1);
}

TEST_F(TorchScriptProgramTest, RefusesRowsThatDependOnEachOtherUnlessTheSpecSaysSo) {
  ModelSpec spec = test::SaveModel(dir_, "batch-statistics", R"(
def forward(self, x):
    return torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-05, False)
)");
  spec.batch_sizes = {2, 4};
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 6})};
  ExpectRefused(spec, "rows of a batch depend on each other (row 0 of output \"x\" changed when other rows did");
  spec.batchable = false;
  EXPECT_TRUE(Load(spec).has_value());
}

TEST_F(TorchScriptProgramTest, RefusesPaddingThatChangesTheAnswerUnlessTheSpecSaysSo) {
  ModelSpec spec = test::SaveModel(dir_, "mean-pool",
                                   "def forward(self, ids):\n"
                                   "    return torch.mean(torch.embedding(self.table, ids), [1])\n",
                                   {{"table", {50, 8}}});
  spec.sequence_lengths = {16};
  spec.inputs = {test::IntTensor("ids", {kBatchDim, kSequenceDim}, {0, 49})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 8})};
  ExpectRefused(spec, "padding along the sequence changes the answer");
  spec.sequence_padding = SequencePadding::kExact;
  EXPECT_TRUE(Load(spec).has_value());
}

TEST_F(TorchScriptProgramTest, RefusesRandomNumbers) {
  ModelSpec spec = test::SaveModel(dir_, "noise", "def forward(self, x):\n    return x + torch.rand_like(x)\n");
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 6})};
  ExpectRefused(spec, "draws random numbers");
}

TEST_F(TorchScriptProgramTest, RefusesArgumentsThatAreNoInputsByName) {
  ModelSpec spec = test::SaveModel(dir_, "scaled", R"(
def forward(self, x, scale: float = 2.0):
    return x * scale
)");
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 6})};
  ExpectRefused(spec, "argument \"scale\" of forward() is of type float");
  spec = test::SaveModel(dir_, "masked", R"(
def forward(self, x, mask: Optional[Tensor] = None):
    return x if mask is None else x * mask
)");
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 6})};
  ExpectRefused(spec, "forward() takes 2 inputs (x: Tensor, mask: Optional[Tensor] = None)");
}

TEST_F(TorchScriptProgramTest, RefusesInputsInAnotherOrderThanForwards) {
  ModelSpec spec = test::SaveModel(dir_, "difference", "def forward(self, a, b):\n    return a - b\n");
  spec.inputs = {FloatTensor("b", {kBatchDim, 6}), FloatTensor("a", {kBatchDim, 6})};
  spec.outputs = {FloatTensor("y", {kBatchDim, 6})};
  ExpectRefused(spec, "forward() takes a, b in this order");
}

TEST_F(TorchScriptProgramTest, ItsStructureIsThatOfTheGraphAndNotOfTheWeights) {
  const Loaded program = Load(MakeLinear());
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  EXPECT_EQ((*program)->structure().size(), 64u);
  EXPECT_EQ((*program)->structure(), (*Load(MakeLinear()))->structure());
}

TEST_F(TorchScriptProgramTest, LoadsWhatWasHandedOverAndNamesTheFile) {
  ModelSpec spec = MakeLinear();
  const int fd = open(spec.file.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  spec.open_path = "/proc/self/fd/" + std::to_string(fd);
  std::filesystem::remove(spec.file);  // another export, say
  EXPECT_TRUE(Load(spec).has_value());
  spec.inputs = {FloatTensor("x", {kBatchDim, 5})};
  ExpectRefused(spec, "linear.pt");
  close(fd);
}

TEST_F(TorchScriptProgramTest, RefusesAModelThatKeepsState) {
  torch::jit::Module module = test::MakeModule("def unused(self, x):\n    return x\n");
  module.register_attribute("calls", c10::IntType::get(), int64_t{0});
  module.define(R"(
def forward(self, x):
    self.calls = self.calls + 1
    return x * float(self.calls)
)");
  ModelSpec spec = test::SaveModule(dir_, "counter", module);
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 6})};
  ExpectRefused(spec, "changes attributes of the module (calls)");
}

TEST_F(TorchScriptProgramTest, RefusesABufferThatIsUpdatedInPlace) {
  ModelSpec spec = test::SaveModel(dir_, "running-mean",
                                   R"(
def forward(self, x):
    self.mean.add_(torch.mean(x, 0) * 0.1)
    return x - self.mean
)",
                                   {{"mean", {6}}});
  spec.inputs = spec.outputs = {FloatTensor("x", {kBatchDim, 6})};
  ExpectRefused(spec, "aten::add_");
}

class EveryProgramTest : public ::testing::TestWithParam<test::TestModel> {};

TEST_P(EveryProgramTest, ForwardAgreesWithTheReference) {
  const test::TempDir dir;
  const ModelSpec spec = GetParam().make(dir);
  const Loaded program = TorchScriptProgram::Load(spec, at::kCPU, {});
  ASSERT_TRUE(program.has_value()) << program.error().ToString();
  for (uint32_t bucket = 0; bucket < spec.bucket_count(); ++bucket) {
    const BucketPlan& plan = (*program)->buckets()[bucket];
    const std::vector<at::Tensor> inputs = MakeSampleInputs(spec, bucket, 5);
    const auto expected = (*program)->Reference(bucket, inputs);
    ASSERT_TRUE(expected.has_value()) << expected.error().ToString();
    std::vector<at::Tensor> copies;  // for models that write to their inputs
    for (const at::Tensor& input : inputs) copies.push_back(input.clone());
    const auto outputs = (*program)->Forward(bucket, copies);
    ASSERT_TRUE(outputs.has_value()) << outputs.error().ToString();
    ASSERT_TRUE(CheckOutputs(plan, *outputs).ok());
    const Result<double> difference = CompareOutputs(plan, *expected, *outputs, 1e-5);
    EXPECT_TRUE(difference.has_value()) << difference.error().ToString();
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EveryProgramTest, ::testing::ValuesIn(test::AllModels()),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace abacus
