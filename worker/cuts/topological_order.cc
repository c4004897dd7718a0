#include "worker/cuts/topological_order.h"

#include <functional>
#include <queue>

namespace abacus {

Result<std::vector<uint32_t>> TopologicalOrder(uint32_t node_count, const std::vector<GraphEdge>& edges) {
  std::vector<std::vector<uint32_t>> successors(node_count);
  std::vector<uint32_t> waits_for(node_count, 0);
  for (const GraphEdge& edge : edges) {
    if (edge.from >= node_count || edge.to >= node_count) {
      return Error(StatusCode::kInternal, "an edge of the captured graph leads to an unknown node");
    }
    successors[edge.from].push_back(edge.to);
    ++waits_for[edge.to];
  }
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>> ready;
  for (uint32_t i = 0; i < node_count; ++i) {
    if (waits_for[i] == 0) ready.push(i);
  }
  std::vector<uint32_t> order;
  while (!ready.empty()) {
    const uint32_t next = ready.top();
    ready.pop();
    order.push_back(next);
    for (uint32_t successor : successors[next]) {
      if (--waits_for[successor] == 0) ready.push(successor);
    }
  }
  if (order.size() != node_count) return Error(StatusCode::kInternal, "the captured graph has a cycle");
  return order;
}

}  // namespace abacus
