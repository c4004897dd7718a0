#include "worker/cuda/cut_timing.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "shm/layout.h"
#include "worker/cuda/cuda_raii.h"
#include "worker/cuts/cut_points.h"
#include "worker/cuts/slice_tree.h"

namespace abacus {
namespace {

constexpr uint32_t kMaxPieces = 256;  // parts of a pass that are timed to place the cuts
constexpr int kCutPasses = 7;

Result<UniqueCudaEvent> MakeEvent() {
  cudaEvent_t event = nullptr;
  ABACUS_RETURN_IF_CUDA_ERROR(cudaEventCreate(&event));
  return UniqueCudaEvent(event);
}

// Executable pieces of a graph, one after another, with an event at every boundary.
struct Pieces {
  std::vector<UniqueCudaGraphExec> execs;
  std::vector<UniqueCudaEvent> events;
};

Result<Pieces> MakePieces(const SlicedGraph& graph, const std::vector<uint32_t>& positions, cudaStream_t stream) {
  const SliceTree tree(positions);
  auto slices = graph.Instantiate(tree, SlicedGraph::Which::kSingle, stream);
  if (!slices) return Error(slices.error());
  Pieces pieces;
  for (size_t i = 0; i < positions.size(); ++i) {
    Result<UniqueCudaEvent> event = MakeEvent();
    if (!event) return Error(event.error());
    pieces.events.push_back(std::move(*event));
    if (i + 1 == positions.size()) break;
    pieces.execs.push_back(std::move((*slices)[tree.Chain(positions[i], positions[i + 1]).front()]));
  }
  return pieces;
}

Status RunPieces(const Pieces& pieces, const BucketMemory& memory, cudaStream_t stream) {
  ABACUS_RETURN_IF_ERROR(memory.CopyIn({}, /*sequence=*/0, stream));
  ABACUS_RETURN_IF_CUDA_ERROR(cudaEventRecord(pieces.events[0].get(), stream));
  for (size_t i = 0; i < pieces.execs.size(); ++i) {
    ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(pieces.execs[i].get(), stream));
    ABACUS_RETURN_IF_CUDA_ERROR(cudaEventRecord(pieces.events[i + 1].get(), stream));
  }
  return WaitIdle(stream);
}

// Fastest time of each piece over some passes.
Result<std::vector<double>> FastestMs(const Pieces& pieces, const BucketMemory& memory, cudaStream_t stream) {
  std::vector<double> fastest_ms(pieces.execs.size(), std::numeric_limits<double>::max());
  for (int pass = 0; pass < kCutPasses; ++pass) {
    ABACUS_RETURN_IF_ERROR(RunPieces(pieces, memory, stream));
    for (size_t i = 0; i < fastest_ms.size(); ++i) {
      float elapsed_ms = 0;
      ABACUS_RETURN_IF_CUDA_ERROR(
          cudaEventElapsedTime(&elapsed_ms, pieces.events[i].get(), pieces.events[i + 1].get()));
      fastest_ms[i] = std::min(fastest_ms[i], static_cast<double>(elapsed_ms));
    }
  }
  return fastest_ms;
}

}  // namespace

Result<std::vector<uint32_t>> MeasureCuts(const SlicedGraph& graph, const BucketMemory& memory, cudaStream_t stream) {
  const uint32_t operators = graph.operators();
  const uint32_t count = std::min(operators, kMaxPieces);
  std::vector<uint32_t> positions;
  for (uint32_t i = 0; i <= count; ++i) {
    positions.push_back(static_cast<uint32_t>(static_cast<uint64_t>(operators) * i / count));
  }
  const Result<Pieces> pieces = MakePieces(graph, positions, stream);
  if (!pieces) return Error(pieces.error());
  const Result<std::vector<double>> pieces_ms = FastestMs(*pieces, memory, stream);
  if (!pieces_ms) return Error(pieces_ms.error());
  // Every measured time holds the cost of launching a graph at all: the shortest is taken for little else.
  const double launch_ms = 0.5 * *std::min_element(pieces_ms->begin(), pieces_ms->end());
  std::vector<double> times_ms = {0};
  for (const double piece_ms : *pieces_ms) times_ms.push_back(times_ms.back() + piece_ms - launch_ms);
  return ChooseCuts(InterpolateCumulative(positions, times_ms), kMaxCuts);
}

}  // namespace abacus
