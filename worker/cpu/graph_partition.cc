#include "worker/cpu/graph_partition.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <utility>

namespace abacus {
namespace {

using torch::jit::Node;

bool IsConstant(const Node* node) {
  return node->kind() == torch::jit::prim::Constant || node->kind() == torch::jit::prim::ConstantMKLDNNTensor;
}

// Calls `use` with every value that `node` or a block nested in it reads.
void ForEachUse(const Node* node, const std::function<void(const torch::jit::Value*)>& use) {
  for (const torch::jit::Value* input : node->inputs()) use(input);
  for (const torch::jit::Block* block : node->blocks()) {
    for (const Node* inner : block->nodes()) ForEachUse(inner, use);
    for (const torch::jit::Value* output : block->outputs()) use(output);
  }
}

}  // namespace

void RangeCode::Run(Slots* slots) const {
  torch::jit::Stack stack;
  stack.reserve(std::max(inputs_.size(), outputs_.size()));
  for (const Input& input : inputs_) {
    c10::IValue& value = (*slots)[input.slot];
    if (input.last_use) {
      stack.push_back(std::exchange(value, c10::IValue()));
    } else {
      stack.push_back(value);
    }
  }
  torch::jit::InterpreterState(code_).run(stack);
  for (size_t i = 0; i < outputs_.size(); ++i) (*slots)[outputs_[i]] = std::move(stack[i]);
}

GraphPartition::GraphPartition(std::shared_ptr<torch::jit::Graph> graph) : graph_(std::move(graph)) {
  const auto define = [this](const torch::jit::Value* value, uint32_t defined) {
    slot_of_.emplace(value, static_cast<uint32_t>(values_.size()));
    values_.push_back({value, defined, 0});
  };
  for (const torch::jit::Value* input : graph_->inputs()) define(input, 0);
  for (Node* node : graph_->nodes()) {
    if (IsConstant(node)) continue;
    const uint32_t op = operators();
    operators_.push_back(node);
    std::set<uint32_t> used;
    ForEachUse(node, [&](const torch::jit::Value* value) {
      if (const auto slot = slot_of_.find(value); slot != slot_of_.end()) used.insert(slot->second);
    });
    for (uint32_t slot : used) values_[slot].last_use = op;
    uses_.emplace_back(used.begin(), used.end());
    for (const torch::jit::Value* output : node->outputs()) define(output, op + 1);
  }
  for (const torch::jit::Value* output : graph_->outputs()) {
    if (const auto slot = slot_of_.find(output); slot != slot_of_.end()) values_[slot->second].last_use = operators();
  }
  const torch::jit::AliasDb aliases(graph_);
  for (const torch::jit::Value* input : graph_->inputs()) writes_input_.push_back(aliases.hasWriters(input));
}

RangeCode GraphPartition::Compile(uint32_t first, uint32_t last) const {
  RangeCode range;
  auto graph = std::make_shared<torch::jit::Graph>();
  std::unordered_map<const torch::jit::Value*, torch::jit::Value*> clones;

  std::set<uint32_t> live_in;
  for (uint32_t op = first; op < last; ++op) {
    for (uint32_t slot : uses_[op]) {
      if (values_[slot].defined <= first) live_in.insert(slot);
    }
  }
  for (uint32_t slot : live_in) {
    range.inputs_.push_back({slot, values_[slot].last_use < last});
    torch::jit::Value* input = graph->addInput();
    input->setType(values_[slot].value->type());
    clones.emplace(values_[slot].value, input);
  }
  const auto clone_of = [&](torch::jit::Value* value) {
    if (const auto found = clones.find(value); found != clones.end()) return found->second;
    Node* constant = graph->createClone(value->node(), [](torch::jit::Value* v) { return v; });
    graph->prependNode(constant);
    return clones.emplace(value, constant->output()).first->second;
  };
  for (uint32_t op = first; op < last; ++op) {
    Node* node = operators_[op];
    // createClone asks for the clones of nested uses as well, constants of the top level included.
    Node* clone = graph->appendNode(graph->createClone(node, clone_of));
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      clones.emplace(node->outputs()[i], clone->outputs()[i]);
      const uint32_t slot = slot_of_.at(node->outputs()[i]);
      if (values_[slot].last_use >= last) {
        graph->registerOutput(clone->outputs()[i]);
        range.outputs_.push_back(slot);
      }
    }
  }
  range.code_ = torch::jit::Code(graph, "operators " + std::to_string(first) + " to " + std::to_string(last));
  return range;
}

Slots GraphPartition::Start(std::vector<c10::IValue> inputs) const {
  Slots slots = std::move(inputs);
  slots.resize(values_.size());
  return slots;
}

c10::IValue GraphPartition::Returned(const Slots& slots) const {
  const torch::jit::Value* output = graph_->outputs().at(0);
  const auto slot = slot_of_.find(output);
  return slot != slot_of_.end() ? slots[slot->second] : torch::jit::toIValue(output).value_or(c10::IValue());
}

}  // namespace abacus
