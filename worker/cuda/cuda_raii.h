// Owners of CUDA runtime objects, waiting for a stream, and CUDA errors as Status.
//
// Thread rule: plain owners. Destructors ignore errors: after a sticky error every CUDA call fails, and the process is
// about to exit.
#ifndef ABACUS_WORKER_CUDA_CUDA_RAII_H_
#define ABACUS_WORKER_CUDA_CUDA_RAII_H_

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/status.h"

namespace abacus {

// WORKER_FAILED with `what` (the call and its object) and CUDA's name and text of the error; OK for cudaSuccess.
inline Status CudaStatus(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return Status::Ok();
  return {StatusCode::kWorkerFailed,
          std::string(what) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error)};
}

struct CudaGraphDeleter {
  void operator()(cudaGraph_t graph) const { (void)cudaGraphDestroy(graph); }
};
struct CudaGraphExecDeleter {
  void operator()(cudaGraphExec_t exec) const { (void)cudaGraphExecDestroy(exec); }
};
struct CudaEventDeleter {
  void operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }
};
struct CudaHostDeleter {
  void operator()(void* memory) const { (void)cudaFreeHost(memory); }
};
using UniqueCudaGraph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, CudaGraphDeleter>;
using UniqueCudaGraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, CudaGraphExecDeleter>;
// Page-locked host memory; T needs no destructor.
template <class T>
using UniqueCudaHost = std::unique_ptr<T, CudaHostDeleter>;
using UniqueCudaEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, CudaEventDeleter>;

// Whether all that was enqueued on the stream has ended.
inline Result<bool> IsIdle(cudaStream_t stream) {
  const cudaError_t error = cudaStreamQuery(stream);
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();  // "not ready" must not show up in LibTorch's next check of the last error
    return false;
  }
  if (const Status status = CudaStatus(error, "waiting for the GPU"); !status.ok()) return Error(status);
  return true;
}

// Polls: a blocking wait would add the wake-up of a thread to every run.
inline Status WaitIdle(cudaStream_t stream) {
  for (;;) {
    const Result<bool> idle = IsIdle(stream);
    if (!idle) return idle.error();
    if (*idle) return Status::Ok();
  }
}

}  // namespace abacus

// Leaves the enclosing function (returning Status or Result) when a CUDA call fails; the message quotes the call.
#define ABACUS_RETURN_IF_CUDA_ERROR(call) ABACUS_RETURN_IF_ERROR(::abacus::CudaStatus((call), #call))

#endif  // ABACUS_WORKER_CUDA_CUDA_RAII_H_
