#include "worker/cpu/graph_partition.h"

#include <ATen/ops/add.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tanh.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/irparser.h>

namespace abacus {
namespace {

std::shared_ptr<torch::jit::Graph> Parse(const std::string& text) {
  auto graph = std::make_shared<torch::jit::Graph>();
  torch::jit::parseIR(text, graph.get());
  return graph;
}

// Operators: relu, tanh, mul, add. The input is used first and last, the output of relu by tanh and mul.
constexpr const char* kDiamond = R"IR(
graph(%x : Tensor):
  %one : int = prim::Constant[value=1]()
  %a : Tensor = aten::relu(%x)
  %b : Tensor = aten::tanh(%a)
  %c : Tensor = aten::mul(%a, %b)
  %d : Tensor = aten::add(%c, %x, %one)
  return (%d)
)IR";

size_t LiveValues(const Slots& slots) {
  size_t live = 0;
  for (const c10::IValue& slot : slots) live += slot.isNone() ? 0 : 1;
  return live;
}

TEST(GraphPartitionTest, OperatorsAreTheNodesOtherThanConstants) {
  const GraphPartition partition(Parse(kDiamond));
  EXPECT_EQ(partition.operators(), 4u);
  EXPECT_FALSE(partition.WritesInput(0));
}

TEST(GraphPartitionTest, ValuesLeaveWithTheirLastUse) {
  const GraphPartition partition(Parse(kDiamond));
  const at::Tensor x = at::randn({3});
  Slots slots = partition.Start({x});
  const size_t expected_live[] = {2, 3, 2, 1};  // x a; x a b; x c; d
  for (uint32_t op = 0; op < 4; ++op) {
    partition.Compile(op, op + 1).Run(&slots);
    EXPECT_EQ(LiveValues(slots), expected_live[op]) << "after operator " << op;
  }
  const at::Tensor a = at::relu(x);
  EXPECT_TRUE(at::equal(partition.Returned(slots).toTensor(), at::add(at::mul(a, at::tanh(a)), x)));
}

TEST(GraphPartitionTest, OnlyLiveValuesCrossAMergedRange) {
  const GraphPartition partition(Parse(kDiamond));
  Slots slots = partition.Start({at::randn({3})});
  partition.Compile(0, 3).Run(&slots);
  EXPECT_EQ(LiveValues(slots), 2u);  // x and c; a and b lived and died inside
}

TEST(GraphPartitionTest, FindsWritesToInputsThroughViews) {
  const GraphPartition partition(Parse(R"IR(
graph(%x : Tensor):
  %zero : int = prim::Constant[value=0]()
  %row : Tensor = aten::select(%x, %zero, %zero)
  %written : Tensor = aten::relu_(%row)
  return (%x)
)IR"));
  EXPECT_TRUE(partition.WritesInput(0));
}

TEST(GraphPartitionTest, ReturnsInputsAndConstantsAsTheyAre) {
  const GraphPartition input(Parse("graph(%x : Tensor):\n  %y : Tensor = aten::relu(%x)\n  return (%x)\n"));
  const at::Tensor x = at::ones({2});
  Slots slots = input.Start({x});
  input.Compile(0, 1).Run(&slots);
  EXPECT_TRUE(input.Returned(slots).toTensor().is_same(x));

  const GraphPartition constant(Parse(R"IR(
graph(%x : Tensor):
  %five : int = prim::Constant[value=5]()
  %y : Tensor = aten::relu(%x)
  return (%five)
)IR"));
  slots = constant.Start({x});
  constant.Compile(0, 1).Run(&slots);
  EXPECT_EQ(constant.Returned(slots).toInt(), 5);
}

}  // namespace
}  // namespace abacus
