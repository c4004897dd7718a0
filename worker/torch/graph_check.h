// What a TorchScript graph does besides computing outputs from inputs, found by looking at its operators: a model whose
// answer depends on anything but the query is not served.
//
// Graphs are inlined and without dead code. Thread rule: pure functions. Errors: INVALID_ARGUMENT, naming the operator
// and, where the file knows it, the line of the model's source.
#ifndef ABACUS_WORKER_TORCH_GRAPH_CHECK_H_
#define ABACUS_WORKER_TORCH_GRAPH_CHECK_H_

#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"

namespace abacus {

// Calls `visit` with every node, those of nested blocks included, in order.
void ForEachNode(const torch::jit::Block* block, const std::function<void(torch::jit::Node*)>& visit);

// "aten::copy_ (model.py:12)"
std::string NodeText(const torch::jit::Node& node);

// Error when an operator writes to what outlives the query (attributes of the module, constants, what lists of them
// hold), updates the statistics of a batch norm, or draws random numbers.
Status CheckStateless(const std::shared_ptr<torch::jit::Graph>& graph);

// Whether inputs far from those that the model was made for could do harm beyond an exception: a loop that ends when
// the numbers allow it, or, on a GPU, an index made from a float, since an index out of range there ends the process.
bool MayRunAway(const torch::jit::Graph& graph, bool on_gpu);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_GRAPH_CHECK_H_
