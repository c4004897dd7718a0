#include "worker/torch/graph_digest.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <string>

#include "tests/worker/torch/test_modules.h"

namespace abacus {
namespace {

constexpr const char* kLinear = "def forward(self, x):\n    return torch.tanh(torch.matmul(x, self.weight) + 1.0)\n";

ModelSpec MakeSpec() {
  ModelSpec spec;
  spec.batch_sizes = {1, 4};
  spec.inputs = {test::FloatTensor("x", {kBatchDim, 6})};
  spec.outputs = {test::FloatTensor("y", {kBatchDim, 8})};
  return spec;
}

std::string Digest(const torch::jit::Module& module, const ModelSpec& spec = MakeSpec(), bool frozen = true) {
  const torch::jit::Module serving = frozen ? torch::jit::freeze(module) : module;
  const auto graph = serving.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  return StructureDigest(spec, serving, *graph);
}

std::string Digest(const std::string& forward, const test::Weights& weights) {
  return Digest(test::MakeModule(forward, weights));
}

TEST(StructureDigestTest, WeightsTrainedAgainLeaveItAlone) {
  for (const bool frozen : {true, false}) {
    torch::jit::Module module = test::MakeModule(kLinear, {{"weight", {6, 8}}});
    const std::string before = Digest(module, MakeSpec(), frozen);
    EXPECT_EQ(before.size(), 64u);
    module.setattr("weight", at::ones({6, 8}));
    EXPECT_EQ(Digest(module, MakeSpec(), frozen), before);
  }
}

TEST(StructureDigestTest, AnotherArchitectureChangesIt) {
  const std::string linear = Digest(kLinear, {{"weight", {6, 8}}});
  EXPECT_EQ(Digest(kLinear, {{"weight", {6, 8}}}), linear);
  EXPECT_NE(Digest(kLinear, {{"weight", {6, 9}}}), linear);
  EXPECT_NE(Digest("def forward(self, x):\n    return torch.relu(torch.matmul(x, self.weight) + 1.0)\n",
                   {{"weight", {6, 8}}}),
            linear);
  EXPECT_NE(Digest("def forward(self, x):\n    return torch.tanh(torch.matmul(x, self.weight) + 2.0)\n",
                   {{"weight", {6, 8}}}),
            linear);
  // The same operators, connected in another way.
  const test::Weights square = {{"weight", {6, 6}}};
  EXPECT_NE(
      Digest("def forward(self, x):\n    y = torch.matmul(x, self.weight)\n    return torch.sub(x, y)\n", square),
      Digest("def forward(self, x):\n    y = torch.matmul(x, self.weight)\n    return torch.sub(y, x)\n", square));
}

TEST(StructureDigestTest, OtherBucketsOrTensorsChangeIt) {
  const torch::jit::Module module = test::MakeModule(kLinear, {{"weight", {6, 8}}});
  const std::string before = Digest(module);
  ModelSpec spec = MakeSpec();
  spec.batch_sizes = {1, 8};
  EXPECT_NE(Digest(module, spec), before);
  spec = MakeSpec();
  spec.inputs[0].dtype = DType::kFloat16;
  EXPECT_NE(Digest(module, spec), before);
  spec = MakeSpec();
  spec.name = "another name";
  EXPECT_EQ(Digest(module, spec), before);
}

}  // namespace
}  // namespace abacus
