#include "worker/cuda/graph_capture.h"

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include <exception>
#include <utility>
#include <vector>

#include "worker/cuda/cuda_raii.h"
#include "worker/torch/torch_tensors.h"

namespace abacus {
namespace {

constexpr int kWarmUpRuns = 3;
constexpr uint32_t kOnlyRange = 0;  // nothing else is started while a model loads

using Tensors = std::vector<at::Tensor>;

// What the graph writes must be on the device and dense.
Result<Tensors> Forward(ModelProgram& program, uint32_t bucket, const BucketMemory& memory) {
  Result<Tensors> outputs = program.Forward(bucket, memory.inputs());
  if (!outputs) return outputs;
  for (at::Tensor& output : *outputs) {
    if (!output.is_cuda()) return Error(StatusCode::kInvalidArgument, "forward() returns a tensor on the CPU");
    output = output.contiguous();
  }
  return outputs;
}

// Copies of the outputs of a run that was not captured, after some more to warm up.
Result<Tensors> RunUncaptured(ModelProgram& program, uint32_t bucket, const BucketMemory& memory, cudaStream_t stream) {
  Tensors expected;
  for (int run = 0; run < kWarmUpRuns; ++run) {
    ABACUS_RETURN_IF_ERROR(memory.CopyIn({}, kOnlyRange, stream));
    Result<Tensors> outputs = Forward(program, bucket, memory);
    if (!outputs) return outputs;
    expected = std::move(*outputs);
    ABACUS_RETURN_IF_ERROR(WaitIdle(stream));  // the staging memory is used again
  }
  for (at::Tensor& output : expected) output = output.clone();
  ABACUS_RETURN_IF_ERROR(CheckOutputs(program.buckets()[bucket], expected));
  ABACUS_RETURN_IF_ERROR(WaitIdle(stream));
  return expected;
}

// Ends a capture that failed half way. LibTorch's capture_end throws before it tells the allocators, which would then
// refuse to free memory for as long as the process lives.
void AbandonCapture(at::cuda::CUDAGraph& graph, const CaptureSite& site) {
  try {
    graph.capture_end();
    return;
  } catch (const std::exception&) {
    (void)cudaGetLastError();
  }
  try {
    c10::cuda::CUDACachingAllocator::endAllocateToPool(site.gpu, site.pool);
    at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(site.pool);
  } catch (const std::exception&) {  // the capture had not come that far
  }
}

Result<std::unique_ptr<at::cuda::CUDAGraph>> Capture(ModelProgram& program, uint32_t bucket, const CaptureSite& site,
                                                     BucketMemory* memory) {
  auto graph = std::make_unique<at::cuda::CUDAGraph>(/*keep_graph=*/true);
  // Thread-local: calls of other threads of the process cannot break the capture.
  graph->capture_begin(site.pool, cudaStreamCaptureModeThreadLocal);
  Result<Tensors> outputs = [&]() -> Result<Tensors> {
    try {
      return Forward(program, bucket, *memory);
    } catch (const std::exception& error) {
      return Error(StatusCode::kInvalidArgument, ErrorText(error));
    }
  }();
  if (!outputs) {
    AbandonCapture(*graph, site);
    return Error(StatusCode::kInvalidArgument,
                 "cannot capture the model in a CUDA graph: " + outputs.error().message() +
                     ". An operator that reads values back to the CPU (.cpu(), .item(), nonzero(), packed sequences, "
                     "branches on tensors) or copies them to the GPU cannot be repeated by one. Compute lengths and "
                     "indices on the device, use masks instead of packing, or serve the model on the CPU");
  }
  graph->capture_end();
  memory->set_outputs(std::move(*outputs));
  return graph;
}

Status CheckCapture(const ModelProgram& program, uint32_t bucket, const CapturedBucket& captured,
                    const Tensors& expected, cudaStream_t stream) {
  const BucketPlan& plan = program.buckets()[bucket];
  const Tensors& outputs = captured.memory.outputs();
  ABACUS_RETURN_IF_ERROR(CheckOutputs(plan, outputs));
  const Result<UniqueCudaGraphExec> whole = captured.sliced.Instantiate(0, captured.sliced.operators(), stream);
  if (!whole) return whole.error();
  ABACUS_RETURN_IF_ERROR(captured.memory.TryCopies(stream));
  ABACUS_RETURN_IF_ERROR(captured.memory.CopyIn({}, kOnlyRange, stream));
  ABACUS_RETURN_IF_CUDA_ERROR(cudaGraphLaunch(whole->get(), stream));
  ABACUS_RETURN_IF_ERROR(WaitIdle(stream));
  const Result<double> difference = CompareOutputs(plan, expected, outputs, program.tolerance());
  return difference ? Status::Ok() : difference.error().WithContext("the captured graph against the uncaptured run");
}

}  // namespace

Result<CapturedBucket> CaptureBucket(ModelProgram& program, uint32_t bucket, const CaptureSite& site) {
  const c10::InferenceMode inference;
  const c10::cuda::CUDAStreamGuard on_stream(site.stream);
  const cudaStream_t stream = site.stream.stream();
  BucketMemory memory(program, bucket, at::Device(at::kCUDA, site.gpu), site.staging);
  const Result<Tensors> expected = RunUncaptured(program, bucket, memory, stream);
  if (!expected) return Error(expected.error());
  Result<std::unique_ptr<at::cuda::CUDAGraph>> graph = Capture(program, bucket, site, &memory);
  if (!graph) return Error(graph.error());
  Result<SlicedGraph> sliced = SlicedGraph::Create((*graph)->raw_cuda_graph());
  if (!sliced) return Error(sliced.error());
  CapturedBucket captured{std::move(memory), std::move(*graph), std::move(*sliced)};
  ABACUS_RETURN_IF_ERROR(CheckCapture(program, bucket, captured, *expected, stream));
  return captured;
}

}  // namespace abacus
