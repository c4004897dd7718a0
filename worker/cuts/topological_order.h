// A topological order of a directed graph, with ties broken by number so that it is the same every time.
//
// Thread rule: pure function.
#ifndef ABACUS_WORKER_CUTS_TOPOLOGICAL_ORDER_H_
#define ABACUS_WORKER_CUTS_TOPOLOGICAL_ORDER_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace abacus {

struct GraphEdge {
  uint32_t from = 0;
  uint32_t to = 0;
};

// The nodes 0 .. node_count - 1, every one after all nodes with an edge to it, the smallest first among those that may
// come next. Error (INTERNAL): a cycle, or an edge of a node that does not exist.
Result<std::vector<uint32_t>> TopologicalOrder(uint32_t node_count, const std::vector<GraphEdge>& edges);

}  // namespace abacus

#endif  // ABACUS_WORKER_CUTS_TOPOLOGICAL_ORDER_H_
