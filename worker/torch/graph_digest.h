// A digest of what a model computes with, without its weights: operators and how they are connected, numbers among
// their attributes, types and shapes of constants, and the tensors and buckets of the spec. Weights that were trained
// again leave it alone; another architecture, another optimisation or other buckets do not.
//
// Thread rule: pure function.
#ifndef ABACUS_WORKER_TORCH_GRAPH_DIGEST_H_
#define ABACUS_WORKER_TORCH_GRAPH_DIGEST_H_

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <string>

#include "models/model_spec.h"

namespace abacus {

// SHA-256, 64 hex digits. `module` is input 0 of the graph and holds what of its attributes was not folded into it.
std::string StructureDigest(const ModelSpec& spec, const torch::jit::Module& module, const torch::jit::Graph& graph);

}  // namespace abacus

#endif  // ABACUS_WORKER_TORCH_GRAPH_DIGEST_H_
