#include "worker/torch/graph_check.h"

#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <memory>
#include <string>

#include "tests/worker/torch/test_modules.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;

using GraphPtr = std::shared_ptr<torch::jit::Graph>;

// As it serves: frozen, inlined, without dead code.
GraphPtr Serving(torch::jit::Module module, const std::string& forward) {
  module.define(forward);
  GraphPtr graph = torch::jit::freeze(module).get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  torch::jit::EliminateDeadCode(graph);
  return graph;
}

GraphPtr Serving(const std::string& forward, const test::Weights& weights = {}) {
  return Serving(test::MakeModule("def unused(self, x):\n    return x\n", weights), forward);
}

std::string WhyNot(const GraphPtr& graph) { return CheckStateless(graph).message(); }

// Replaces attribute "seen" by a constant, as tracing does with a tensor that is no buffer.
GraphPtr WithConstant(const GraphPtr& graph) {
  std::vector<torch::jit::Node*> reads;
  ForEachNode(graph->block(), [&reads](torch::jit::Node* node) {
    if (node->kind() == torch::jit::prim::GetAttr) reads.push_back(node);
  });
  torch::jit::Value* constant = nullptr;
  for (torch::jit::Node* node : reads) {
    const torch::jit::WithInsertPoint before(node);
    if (constant == nullptr) constant = graph->insertConstant(at::full({1}, 10.0));
    node->output()->replaceAllUsesWith(constant);
  }
  torch::jit::EliminateDeadCode(graph);
  return graph;
}

constexpr const char* kRunningMaximum = R"(
def forward(self, x):
    self.seen.copy_(torch.maximum(self.seen, torch.amax(torch.abs(x), [0, 1]).reshape([1])))
    return x / self.seen
)";

TEST(CheckStatelessTest, FindsAnAttributeThatIsWrittenTo) {
  const std::string why = WhyNot(Serving(kRunningMaximum, {{"seen", {1}}}));
  EXPECT_THAT(why, HasSubstr("aten::copy_"));
  EXPECT_THAT(why, HasSubstr("changes attributes of the module or constants"));
}

TEST(CheckStatelessTest, FindsAConstantThatIsWrittenTo) {
  EXPECT_THAT(WhyNot(WithConstant(Serving(kRunningMaximum, {{"seen", {1}}}))), HasSubstr("aten::copy_"));
}

TEST(CheckStatelessTest, FindsAWriteThroughAViewInsideABranch) {
  EXPECT_THAT(WhyNot(Serving(R"(
def forward(self, x):
    if bool(torch.sum(x) > 1000.0):
        self.seen.select(0, 0).add_(1.0)
    return x * self.seen
)",
                             {{"seen", {4}}})),
              HasSubstr("aten::add_"));
}

TEST(CheckStatelessTest, FindsTensorsInListsThatAreWrittenTo) {
  const auto with_list = [] {
    torch::jit::Module module = test::MakeModule("def unused(self, x):\n    return x\n");
    c10::List<at::Tensor> list;
    list.push_back(at::full({1}, 1.0));
    module.register_attribute("kept", c10::ListType::ofTensors(), list);
    return module;
  };
  EXPECT_EQ(WhyNot(Serving(with_list(), "def forward(self, x):\n    return x * self.kept[0]\n")), "");
  EXPECT_NE(WhyNot(Serving(with_list(), R"(
def forward(self, x):
    self.kept[0].add_(1.0)
    return x * self.kept[0]
)")),
            "");
  EXPECT_NE(WhyNot(Serving(with_list(), R"(
def forward(self, x):
    self.kept.append(x)
    return x * float(len(self.kept))
)")),
            "");
}

TEST(CheckStatelessTest, FindsNumbersThatAreAssigned) {
  torch::jit::Module module = test::MakeModule("def unused(self, x):\n    return x\n");
  module.register_attribute("calls", c10::IntType::get(), int64_t{0});
  EXPECT_THAT(WhyNot(Serving(module, R"(
def forward(self, x):
    self.calls = self.calls + 1
    return x * float(self.calls)
)")),
              HasSubstr("changes attributes of the module (calls)"));
}

TEST(CheckStatelessTest, WritesToInputsAndValuesOfTheQueryAreItsOwnBusiness) {
  EXPECT_EQ(WhyNot(Serving(R"(
def forward(self, x):
    x.mul_(2.0)
    y = torch.matmul(x, self.weight)
    y.select(1, 0).add_(1.0)
    parts = [y]
    parts.append(x)
    parts[0].add_(1.0)
    return torch.relu_(y) + torch.cat(parts)
)",
                           {{"weight", {4, 4}}})),
            "");
}

TEST(CheckStatelessTest, FindsRandomNumbers) {
  for (const std::string what : {"torch.rand_like(x)", "torch.randn([4])", "torch.bernoulli(torch.sigmoid(x))",
                                 "torch.multinomial(torch.sigmoid(x), 1)", "x.clone().normal_()",
                                 "torch.dropout(x, 0.5, True)", "torch.randint(0, 7, [4])"}) {
    EXPECT_THAT(WhyNot(Serving("def forward(self, x):\n    return x + " + what + "\n")),
                HasSubstr("draws random numbers"))
        << what;
  }
}

TEST(CheckStatelessTest, DropoutThatIsOffIsNotRandom) {
  for (const std::string what :
       {"torch.dropout(x, 0.5, False)", "torch.dropout(x, 0.0, True)", "torch.feature_dropout(x, 0.5, False)",
        "torch.rrelu(x, 0.1, 0.3, False)", "torch.scaled_dot_product_attention(x, x, x)"}) {
    EXPECT_EQ(WhyNot(Serving("def forward(self, x):\n    return x + " + what + "\n")), "") << what;
  }
}

TEST(CheckStatelessTest, FindsStatisticsThatAreUpdated) {
  const auto batch_norm = [](const std::string& training, const std::string& mean, const std::string& variance) {
    return Serving("def forward(self, x):\n    return torch.batch_norm(x, self.scale, self.scale, " + mean + ", " +
                       variance + ", " + training + ", 0.1, 1e-05, False)\n",
                   {{"scale", {4}}});
  };
  EXPECT_THAT(WhyNot(batch_norm("True", "self.scale", "self.scale")), HasSubstr("updates running statistics"));
  EXPECT_EQ(WhyNot(batch_norm("True", "None", "None")), "");
  EXPECT_EQ(WhyNot(batch_norm("False", "self.scale", "self.scale")), "");
}

TEST(MayRunAwayTest, FindsLoopsThatTheNumbersEndAndIndicesFromFloats) {
  const GraphPtr halves = Serving(R"(
def forward(self, x):
    while bool(torch.amax(x, [0, 1]) > 1.0):
        x = x / 2.0
    return x
)");
  EXPECT_TRUE(MayRunAway(*halves, /*on_gpu=*/false));
  const GraphPtr counts = Serving("def forward(self, x):\n    for i in range(3):\n        x = x / 2.0\n    return x\n");
  EXPECT_FALSE(MayRunAway(*counts, true));
  const GraphPtr index =
      Serving("def forward(self, x):\n    return torch.embedding(self.table, x.to(4))\n", {{"table", {9, 2}}});
  EXPECT_FALSE(MayRunAway(*index, false));
  EXPECT_TRUE(MayRunAway(*index, true));
}

}  // namespace
}  // namespace abacus
