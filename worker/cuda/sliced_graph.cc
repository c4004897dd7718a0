#include "worker/cuda/sliced_graph.h"

#include <string>
#include <unordered_map>
#include <utility>

#include "worker/cuts/topological_order.h"

namespace abacus {
namespace {

Status CheckNodeType(cudaGraphNode_t node, uint32_t index) {
  cudaGraphNodeType type;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphNodeGetType(node, &type));
  if (type == cudaGraphNodeTypeMemAlloc || type == cudaGraphNodeTypeMemFree || type == cudaGraphNodeTypeConditional) {
    return {StatusCode::kInvalidArgument, "node " + std::to_string(index) + " of the captured graph has type " +
                                              std::to_string(type) +
                                              " (allocation, free or conditional), which "
                                              "cannot be cut; unset PYTORCH_ALLOC_CONF backend:cudaMallocAsync"};
  }
  return Status::Ok();
}

Result<std::vector<GraphEdge>> EdgesOf(cudaGraph_t graph,
                                       const std::unordered_map<cudaGraphNode_t, uint32_t>& index_of) {
  std::vector<cudaGraphNode_t> from;
  std::vector<cudaGraphNode_t> to;
  std::vector<cudaGraphEdgeData> data;  // without it the query fails where an edge is programmatic
  size_t capacity = index_of.size();
  size_t count = capacity;
  while (count == capacity) {  // as many as fit: there may be more
    capacity *= 2;
    count = capacity;
    from.resize(capacity);
    to.resize(capacity);
    data.resize(capacity);
    ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphGetEdges(graph, from.data(), to.data(), data.data(), &count));
  }
  std::vector<GraphEdge> edges;
  for (size_t i = 0; i < count; ++i) edges.push_back({index_of.at(from[i]), index_of.at(to[i])});
  return edges;
}

// A graph of our own and its nodes in order.
struct GraphPiece {
  UniqueCudaGraph graph;
  std::vector<cudaGraphNode_t> nodes;
};

// A clone of `graph`, of whose `nodes` only [first, last) are kept.
Result<GraphPiece> ClonePiece(cudaGraph_t graph, const std::vector<cudaGraphNode_t>& nodes, uint32_t first,
                              uint32_t last) {
  cudaGraph_t raw_clone = nullptr;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphClone(&raw_clone, graph));
  GraphPiece piece{UniqueCudaGraph(raw_clone), {}};
  piece.nodes.reserve(last - first);
  for (uint32_t i = 0; i < nodes.size(); ++i) {
    cudaGraphNode_t node = nullptr;
    ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphNodeFindInClone(&node, nodes[i], raw_clone));
    if (i >= first && i < last) {
      piece.nodes.push_back(node);
    } else {
      ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphDestroyNode(node));
    }
  }
  return piece;
}

Result<UniqueCudaGraphExec> InstantiatePiece(const GraphPiece& piece, cudaStream_t stream) {
  cudaGraphExec_t raw_exec = nullptr;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&raw_exec, piece.graph.get(), /*flags=*/0));
  UniqueCudaGraphExec exec(raw_exec);
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphUpload(raw_exec, stream));
  return exec;
}

// Instantiates what `which` names of slice `index` of `tree`, which is `piece`, and of the slices under it.
Status InstantiateSubtree(const SliceTree& tree, SlicedGraph::Which which, uint32_t index, const GraphPiece& piece,
                          cudaStream_t stream, std::vector<UniqueCudaGraphExec>* execs) {
  const SliceTree::Slice& slice = tree.slices()[index];
  const bool single = slice.left == 0;
  if (single || which == SlicedGraph::Which::kAll) {
    Result<UniqueCudaGraphExec> exec = InstantiatePiece(piece, stream);
    if (!exec) return exec.error();
    (*execs)[index] = std::move(*exec);
  }
  if (single) return Status::Ok();
  for (uint32_t child : {slice.left, slice.right}) {
    const SliceTree::Slice& part = tree.slices()[child];
    const Result<GraphPiece> clone =
        ClonePiece(piece.graph.get(), piece.nodes, part.first - slice.first, part.last - slice.first);
    if (!clone) return clone.error();
    ABACUS_RETURN_IF_ERROR(InstantiateSubtree(tree, which, child, *clone, stream, execs));
  }
  return Status::Ok();
}

}  // namespace

Result<SlicedGraph> SlicedGraph::Create(cudaGraph_t graph) {
  size_t count = 0;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphGetNodes(graph, nullptr, &count));
  if (count == 0) return Error(StatusCode::kInvalidArgument, "the captured graph is empty");
  std::vector<cudaGraphNode_t> created(count);
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphGetNodes(graph, created.data(), &count));
  std::unordered_map<cudaGraphNode_t, uint32_t> index_of;
  for (uint32_t i = 0; i < count; ++i) {
    ABACUS_RETURN_IF_ERROR(CheckNodeType(created[i], i));
    index_of.emplace(created[i], i);
  }
  const Result<std::vector<GraphEdge>> edges = EdgesOf(graph, index_of);
  if (!edges) return Error(edges.error());
  const Result<std::vector<uint32_t>> order = TopologicalOrder(static_cast<uint32_t>(count), *edges);
  if (!order) return Error(order.error());
  std::vector<cudaGraphNode_t> nodes;
  nodes.reserve(count);
  for (uint32_t index : *order) nodes.push_back(created[index]);
  return SlicedGraph(graph, std::move(nodes));
}

Result<UniqueCudaGraphExec> SlicedGraph::Instantiate(uint32_t first, uint32_t last, cudaStream_t stream) const {
  const Result<GraphPiece> piece = ClonePiece(graph_, nodes_, first, last);
  if (!piece) return Error(piece.error());
  return InstantiatePiece(*piece, stream);
}

Result<std::vector<UniqueCudaGraphExec>> SlicedGraph::Instantiate(const SliceTree& tree, Which which,
                                                                  cudaStream_t stream) const {
  const Result<GraphPiece> whole = ClonePiece(graph_, nodes_, 0, operators());
  if (!whole) return Error(whole.error());
  std::vector<UniqueCudaGraphExec> execs(tree.slices().size());
  ABACUS_RETURN_IF_ERROR(InstantiateSubtree(tree, which, 0, *whole, stream, &execs));
  return execs;
}

}  // namespace abacus
