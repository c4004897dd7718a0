// GraphPartition: a TorchScript graph seen as a sequence of operators, any range of which compiles to code of its own.
//
// An operator is a top-level node other than a constant; a whole `if` or loop is one operator. A range [first, last)
// becomes a graph whose inputs are the values that were made before `first` and are used in it (live-in), and whose
// outputs are the values made in it and used at or after `last` (live-out). Constants are cloned into the ranges that
// use them. Values between ranges are kept as IValues in numbered slots, by reference: tuples, lists, opaque oneDNN
// tensors and tensors that later operators write to in place cross a cut unchanged, and every operator still sees the
// same tensor objects as in the uncut run, so results are bit-identical. A value leaves its slot with the last
// operator that uses it, which frees its memory as early as in the uncut run.
//
// Code compiled here runs in LibTorch's interpreter alone: no profiling executor, no fusion.
//
// Thread rule: constant after construction; ranges may be compiled and run by one thread at a time.
#ifndef ABACUS_WORKER_CPU_GRAPH_PARTITION_H_
#define ABACUS_WORKER_CPU_GRAPH_PARTITION_H_

#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace abacus {

// Values of a job in progress, by slot.
using Slots = std::vector<c10::IValue>;

// A compiled range.
class RangeCode {
 public:
  // Runs the range on `slots`. Throws what LibTorch throws; the slots are then of no further use.
  void Run(Slots* slots) const;

 private:
  friend class GraphPartition;
  struct Input {
    uint32_t slot;
    bool last_use;  // no later operator needs the value
  };
  std::vector<Input> inputs_;
  std::vector<uint32_t> outputs_;
  torch::jit::Code code_;
};

class GraphPartition {
 public:
  explicit GraphPartition(std::shared_ptr<torch::jit::Graph> graph);

  uint32_t operators() const { return static_cast<uint32_t>(operators_.size()); }
  // Requires first < last <= operators().
  RangeCode Compile(uint32_t first, uint32_t last) const;

  // Slots of a new job; `inputs` are the graph's inputs in order.
  Slots Start(std::vector<c10::IValue> inputs) const;
  // What the graph returns, after the last operator has run.
  c10::IValue Returned(const Slots& slots) const;
  // True when an operator may write to graph input `index` in place. LibTorch counts inputs of one type as possibly the
  // same memory, so this is true of all tensor inputs or of none.
  bool WritesInput(size_t index) const { return writes_input_[index]; }

 private:
  struct Value {
    const torch::jit::Value* value;
    uint32_t defined;   // operators before its definition, plus one for the defining one; 0: graph input
    uint32_t last_use;  // the last operator that uses it, operators() when the graph returns it
  };

  std::shared_ptr<torch::jit::Graph> graph_;
  std::vector<torch::jit::Node*> operators_;
  std::vector<Value> values_;                                       // by slot
  std::unordered_map<const torch::jit::Value*, uint32_t> slot_of_;  // top-level values other than constants
  std::vector<std::vector<uint32_t>> uses_;                         // slots that each operator uses, ascending
  std::vector<bool> writes_input_;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CPU_GRAPH_PARTITION_H_
