// SlicedGraph: a captured CUDA graph as a sequence of nodes, any range of which becomes an executable graph.
//
// Order: the nodes in a topological order, ties broken by the order of creation. Every prefix of a topological order
// is closed under dependencies, and ranges run one after another on one stream, so every boundary is a valid cut even
// where the graph is not a linear chain. A range is made by cloning the graph and destroying the nodes outside it:
// destroying a node severs its edges, and nothing inside a range depends on another range through a node inside.
// Programmatic edges (dependent launch) may be severed too: the later kernel then starts after the earlier has ended.
//
// Graphs with allocation, free or conditional nodes cannot be cloned and are refused.
//
// Thread rule: constant after Create. Ownership: borrows the captured graph, which must outlive it. Errors:
// WORKER_FAILED with the CUDA call that failed.
#ifndef ABACUS_WORKER_CUDA_SLICED_GRAPH_H_
#define ABACUS_WORKER_CUDA_SLICED_GRAPH_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/cuts/slice_tree.h"

namespace abacus {

class SlicedGraph {
 public:
  // Slices of a tree: all, or the single intervals alone (the others stay null).
  enum class Which { kAll, kSingle };

  static Result<SlicedGraph> Create(cudaGraph_t graph);

  uint32_t operators() const { return static_cast<uint32_t>(nodes_.size()); }
  // Instantiates nodes [first, last) and uploads them on `stream`; takes 1 to 3 ms. Requires first < last.
  Result<UniqueCudaGraphExec> Instantiate(uint32_t first, uint32_t last, cudaStream_t stream) const;
  // Instantiates and uploads slices of `tree`, by index. A slice is cloned from the one above it, so that cloning takes
  // O(n log n) nodes in all.
  Result<std::vector<UniqueCudaGraphExec>> Instantiate(const SliceTree& tree, Which which, cudaStream_t stream) const;

 private:
  SlicedGraph(cudaGraph_t graph, std::vector<cudaGraphNode_t> nodes) : graph_(graph), nodes_(std::move(nodes)) {}

  cudaGraph_t graph_;
  std::vector<cudaGraphNode_t> nodes_;  // in topological order
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_SLICED_GRAPH_H_
