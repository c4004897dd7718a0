#include "worker/torch/graph_check.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

namespace abacus {
namespace {

using torch::jit::Node;
using torch::jit::Value;

constexpr const char* kExportAgain = "export it again without";

std::string_view NameOf(const Node& node) { return node.kind().toQualString(); }

// What `node` gets for the argument `name` of its schema; nullptr where it has none of that name.
const Value* Argument(const Node& node, std::string_view name) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return nullptr;
  for (size_t i = 0; i < schema->arguments().size() && i < node.inputs().size(); ++i) {
    if (schema->arguments()[i].name() == name) return node.input(i);
  }
  return nullptr;
}

std::optional<c10::IValue> ConstantOf(const Value* value) {
  return value == nullptr ? std::nullopt : torch::jit::toIValue(value);
}

bool IsFalse(const Value* value) {
  const std::optional<c10::IValue> constant = ConstantOf(value);
  return constant && constant->isBool() && !constant->toBool();
}

bool IsZero(const Value* value) {
  const std::optional<c10::IValue> constant = ConstantOf(value);
  return constant &&
         ((constant->isDouble() && constant->toDouble() == 0) || (constant->isInt() && constant->toInt() == 0));
}

bool IsNone(const Value* value) {
  const std::optional<c10::IValue> constant = ConstantOf(value);
  return constant && constant->isNone();
}

// Whether the operator is one that draws random numbers and its arguments do not switch that off.
bool IsRandom(const Node& node) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return false;
  const auto handle = c10::Dispatcher::singleton().findSchema({schema->name(), schema->overload_name()});
  bool random = handle && handle->hasTag(at::Tag::nondeterministic_seeded);
  // An operator that takes a generator draws from it, whatever its tags say.
  for (const c10::Argument& argument : schema->arguments()) random = random || argument.name() == "generator";
  if (!random) return false;
  for (const char* off : {"train", "training", "is_training"}) {
    if (IsFalse(Argument(node, off))) return false;
  }
  for (const char* probability : {"dropout_p", "dropout", "p"}) {
    const bool names_dropout =
        std::string_view(probability) != "p" || NameOf(node).find("dropout") != std::string::npos;
    if (names_dropout && IsZero(Argument(node, probability))) return false;
  }
  return true;
}

// Whether a normalisation updates running statistics, which its schema does not say.
bool UpdatesStatistics(const Node& node) {
  const Value* mean = Argument(node, "running_mean");
  if (mean == nullptr || IsNone(mean)) return false;
  for (const char* uses_batch : {"training", "train", "use_input_stats"}) {
    if (const Value* flag = Argument(node, uses_batch)) return !IsFalse(flag);
  }
  return false;
}

bool IsMutableConstant(const Node& node) {
  if (node.kind() != torch::jit::prim::Constant || node.outputs().size() != 1) return false;
  const auto value = torch::jit::toIValue(node.output());
  return value && (value->isTensor() || value->isList() || value->isGenericDict() || value->isTuple() ||
                   value->isObject() || value->isCustomClass());
}

// Whether its outputs are what its first input, a list, tuple or dictionary, holds: LibTorch's analysis of aliases does
// not follow those.
bool TakesOut(const Node& node) {
  static constexpr std::array<std::string_view, 8> kKinds = {
      "aten::__getitem__", "prim::ListUnpack", "prim::TupleUnpack", "prim::TupleIndex",
      "prim::TupleSlice",  "aten::get",        "aten::values",      "aten::pop"};
  return !node.inputs().empty() && std::ranges::find(kKinds, NameOf(node)) != kKinds.end();
}

// The input of its node that `value` is a view of, or that it is; nullptr: none by the operator's schema.
const Value* Viewed(const Value* value) {
  const Node& node = *value->node();
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr || value->offset() >= schema->returns().size()) return nullptr;
  const c10::AliasInfo* made = schema->returns()[value->offset()].alias_info();
  if (made == nullptr) return nullptr;
  for (size_t i = 0; i < schema->arguments().size() && i < node.inputs().size(); ++i) {
    const c10::AliasInfo* given = schema->arguments()[i].alias_info();
    if (given != nullptr && given->beforeSets() == made->beforeSets()) return node.input(i);
  }
  return nullptr;
}

// Whether the tensor's memory was made by an operator during the query, or is the query's own input.
bool IsFresh(const Value* value, const torch::jit::Graph& graph) {
  while (const Value* viewed = Viewed(value)) value = viewed;
  const Node& node = *value->node();
  if (&node == graph.param_node()) return value != graph.inputs()[0];
  if (!TakesOut(node)) {
    return node.maybeSchema() != nullptr && value->type()->isSubtypeOf(*c10::TensorType::get());
  }
  // A list that an operator made holds pieces of the operator's tensors; else what was put into it counts.
  const Node& maker = *node.input(0)->node();
  const bool constructed =
      maker.kind() == torch::jit::prim::ListConstruct || maker.kind() == torch::jit::prim::TupleConstruct;
  if (maker.maybeSchema() == nullptr && !constructed && maker.kind() != torch::jit::prim::ConstantChunk) return false;
  return std::ranges::all_of(maker.inputs(), [&graph](const Value* input) {
    return !input->type()->isSubtypeOf(*c10::TensorType::get()) || IsFresh(input, graph);
  });
}

// Whether all that the operator writes to is. LibTorch's analysis counts what was ever put into a list as one with all
// that lists hold, the weights of recurrent layers included.
bool WritesToFreshMemory(const Node& node, const torch::jit::Graph& graph) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return false;
  for (size_t i = 0; i < schema->arguments().size() && i < node.inputs().size(); ++i) {
    const c10::AliasInfo* info = schema->arguments()[i].alias_info();
    if (info != nullptr && info->isWrite() && !IsFresh(node.input(i), graph)) return false;
  }
  return true;
}

bool MakesIntegers(const Node& node) {
  static constexpr std::array<std::string_view, 6> kCasts = {"aten::long", "aten::int",     "aten::_cast_Long",
                                                             "aten::Int",  "aten::type_as", "aten::_cast_Int"};
  if (std::ranges::find(kCasts, NameOf(node)) != kCasts.end()) return true;
  const std::optional<c10::IValue> dtype = ConstantOf(Argument(node, "dtype"));
  return NameOf(node) == "aten::to" && dtype && dtype->isInt() &&
         at::isIntegralType(static_cast<at::ScalarType>(dtype->toInt()), /*includeBool=*/false);
}

bool EndsWhenNumbersAllow(const Node& node) {
  if (node.kind() != torch::jit::prim::Loop) return false;
  const std::optional<c10::IValue> most = ConstantOf(node.input(0));
  return most && most->isInt() && most->toInt() == std::numeric_limits<int64_t>::max();
}

Status Refuse(const Node& node, const std::string& what) {
  return {StatusCode::kInvalidArgument, c10::str(NodeText(node), " ", what)};
}

}  // namespace

void ForEachNode(const torch::jit::Block* block, const std::function<void(Node*)>& visit) {
  for (Node* node : const_cast<torch::jit::Block*>(block)->nodes()) {
    visit(node);
    for (const torch::jit::Block* inner : node->blocks()) ForEachNode(inner, visit);
  }
}

std::string NodeText(const Node& node) {
  const auto original = node.sourceRange().findSourceRangeThatGenerated();
  const auto place = (original ? *original : node.sourceRange()).file_line_col();
  if (!place) return node.kind().toQualString();
  return c10::str(node.kind().toQualString(), " (", std::get<0>(*place), ":", std::get<1>(*place), ")");
}

Status CheckStateless(const std::shared_ptr<torch::jit::Graph>& graph) {
  const torch::jit::AliasDb aliases(graph, /*isFrozen=*/true);  // each attribute is memory of its own
  torch::jit::ValueSet lasting;                                 // what is there before and after a query
  ForEachNode(graph->block(), [&](const Node* node) {
    const bool source = node->kind() == torch::jit::prim::GetAttr || IsMutableConstant(*node);
    if (!source && !(TakesOut(*node) && lasting.count(node->input(0)) > 0)) return;
    lasting.insert(node->outputs().begin(), node->outputs().end());
  });
  Status status;
  ForEachNode(graph->block(), [&](Node* node) {
    if (!status.ok()) return;
    if (node->kind() == torch::jit::prim::SetAttr) {
      status = Refuse(*node, c10::str("changes attributes of the module (", node->s(torch::jit::attr::name),
                                      "), so that one query would affect the next; ", kExportAgain, " state"));
    } else if (node->blocks().empty() && aliases.writesToAlias(node, lasting) && !WritesToFreshMemory(*node, *graph)) {
      status = Refuse(*node, c10::str("changes attributes of the module or constants, so that one query would affect "
                                      "the next; ",
                                      kExportAgain, " state, or let it write to a copy"));
    } else if (UpdatesStatistics(*node)) {
      status = Refuse(*node, c10::str("updates running statistics, so that one query would affect the next; ",
                                      kExportAgain, " training mode (module.eval())"));
    } else if (IsRandom(*node)) {
      status = Refuse(*node, c10::str("draws random numbers, so that the same query gets different answers; ",
                                      kExportAgain, " it (module.eval() switches dropout off)"));
    }
  });
  return status;
}

bool MayRunAway(const torch::jit::Graph& graph, bool on_gpu) {
  bool may = false;
  ForEachNode(graph.block(),
              [&](const Node* node) { may = may || EndsWhenNumbersAllow(*node) || (on_gpu && MakesIntegers(*node)); });
  return may;
}

}  // namespace abacus
