#include "worker/torch/graph_digest.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <sstream>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/digest.h"

namespace abacus {
namespace {

using torch::jit::AttributeKind;
using torch::jit::Node;
using torch::jit::Value;

// Writes a graph as text in which values are numbers in the order of their definition.
class GraphText {
 public:
  explicit GraphText(const torch::jit::Module& module) : module_(module) {}

  void Add(const torch::jit::Block* block) {
    for (const Value* input : block->inputs()) Define(input);
    for (const Node* node : block->nodes()) Add(*node);
    text_ << "return";
    for (const Value* output : block->outputs()) text_ << ' ' << numbers_.at(output);
    text_ << '\n';
  }
  void Add(std::string_view name, const std::vector<TensorSpec>& tensors) {
    for (const TensorSpec& tensor : tensors) {
      text_ << name << ' ' << InfoOf(tensor.dtype).name;
      for (const int64_t dim : tensor.dims.dims()) text_ << ' ' << dim;
      text_ << '\n';
    }
  }
  void Add(std::string_view name, const std::vector<int64_t>& sizes) {
    text_ << name << ' ' << c10::Join(" ", sizes) << '\n';
  }
  std::string text() const { return text_.str(); }

 private:
  void Define(const Value* value) { numbers_.emplace(value, numbers_.size()); }

  void Add(const Node& node) {
    text_ << node.kind().toQualString();
    for (const Value* input : node.inputs()) text_ << ' ' << numbers_.at(input);
    std::vector<c10::Symbol> names = node.attributeNames();
    std::ranges::sort(names, {}, [](const c10::Symbol& name) { return std::string_view(name.toUnqualString()); });
    for (const c10::Symbol name : names) {
      text_ << ' ' << name.toUnqualString() << '=';
      AddAttribute(node, name);
    }
    if (node.kind() == torch::jit::prim::GetAttr) AddModuleAttribute(node.s(torch::jit::attr::name));
    text_ << '\n';
    for (const Value* output : node.outputs()) Define(output);
    for (const torch::jit::Block* block : node.blocks()) Add(block);
  }

  void AddAttribute(const Node& node, c10::Symbol name) {
    switch (node.kindOf(name)) {
      case AttributeKind::f:
        text_ << node.f(name);
        break;
      case AttributeKind::fs:
        text_ << c10::Join(",", node.fs(name));
        break;
      case AttributeKind::i:
        text_ << node.i(name);
        break;
      case AttributeKind::is:
        text_ << c10::Join(",", node.is(name));
        break;
      case AttributeKind::s:
        text_ << node.s(name);
        break;
      case AttributeKind::ss:
        text_ << c10::Join(",", node.ss(name));
        break;
      case AttributeKind::t:
        Add(c10::IValue(node.t(name)));
        break;
      case AttributeKind::ts:
        for (const at::Tensor& tensor : node.ts(name)) Add(c10::IValue(tensor));
        break;
      case AttributeKind::ival:
        Add(node.ival(name));
        break;
      case AttributeKind::g:
        Add(node.g(name)->block());
        break;
      case AttributeKind::gs:
        for (const auto& graph : node.gs(name)) Add(graph->block());
        break;
      default:
        text_ << torch::jit::toString(node.kindOf(name));
    }
  }

  void Add(const c10::IValue& value) {
    if (value.isTensor()) {
      const at::Tensor& tensor = value.toTensor();
      if (!tensor.defined()) {
        text_ << "undefined";
      } else if (tensor.is_mkldnn()) {
        text_ << tensor.scalar_type() << '[' << c10::Join(",", tensor.sizes()) << "]blocked";
      } else {
        text_ << tensor.scalar_type() << '[' << c10::Join(",", tensor.sizes()) << ']';
      }
    } else if (value.isTuple()) {
      AddAll(value.toTupleRef().elements().vec());
    } else if (value.isList()) {
      AddAll(value.toListRef().vec());
    } else if (value.isInt() || value.isDouble() || value.isBool() || value.isString() || value.isNone()) {
      text_ << value;
    } else {
      text_ << value.tagKind();
    }
  }
  void AddAll(const std::vector<c10::IValue>& values) {
    text_ << '(';
    for (const c10::IValue& value : values) {
      Add(value);
      text_ << ';';
    }
    text_ << ')';
  }

  // A tensor of the module itself; one of a module inside it is named alone.
  void AddModuleAttribute(const std::string& name) {
    if (!module_.hasattr(name)) return;
    text_ << ':';
    Add(module_.attr(name));
  }

  const torch::jit::Module& module_;
  std::ostringstream text_;
  std::unordered_map<const Value*, size_t> numbers_;
};

}  // namespace

std::string StructureDigest(const ModelSpec& spec, const torch::jit::Module& module, const torch::jit::Graph& graph) {
  GraphText text(module);
  text.Add(graph.block());
  text.Add("input", spec.inputs);
  text.Add("output", spec.outputs);
  text.Add("batch", spec.batch_sizes);
  text.Add("sequence", spec.sequence_lengths);
  return Sha256Hex(text.text());
}

}  // namespace abacus
