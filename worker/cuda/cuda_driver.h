// The few functions of the CUDA driver that the CUDA runtime has no counterpart for.
//
// They are looked up through the CUDA runtime: nothing links to libcuda, which a machine without a GPU lacks.
// Thread rule: no shared state.
#ifndef ABACUS_WORKER_CUDA_CUDA_DRIVER_H_
#define ABACUS_WORKER_CUDA_CUDA_DRIVER_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "worker/cuda/cuda_raii.h"

namespace abacus {

// Driver functions as of CUDA 12.0, which has version 2 of the stream memory operations.
inline constexpr unsigned kDriverApiVersion = 12000;

// Stores the driver's function `name` in *function. UNAVAILABLE: the driver is too old for it.
template <class Function>
Status FindDriverFunction(const char* name, Function** function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &found, kDriverApiVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || found == nullptr) {
    (void)cudaGetLastError();
    return {StatusCode::kUnavailable, std::string("this CUDA driver has no ") + name};
  }
  *function = reinterpret_cast<Function*>(found);
  return Status::Ok();
}

// As CudaStatus: the runtime gives the driver's errors the same numbers.
inline Status DriverStatus(CUresult result, std::string_view what) {
  return CudaStatus(static_cast<cudaError_t>(result), what);
}

// Device addresses are numbers in the driver's interface.
inline CUdeviceptr DevicePointer(const void* address) { return reinterpret_cast<CUdeviceptr>(address); }

// Operations of a stream on 32-bit words of memory. The words are page-locked; addresses are the device's.
class StreamMemoryOps {
 public:
  static Result<StreamMemoryOps> Find() {
    StreamMemoryOps ops;
    ABACUS_RETURN_IF_ERROR(FindDriverFunction("cuStreamWaitValue32", &ops.wait_));
    ABACUS_RETURN_IF_ERROR(FindDriverFunction("cuStreamWriteValue32", &ops.write_));
    return ops;
  }

  // What follows in the stream begins once the word has reached `value`; cyclic, as Gate::Reached.
  Status AwaitReached(cudaStream_t stream, const void* word, uint32_t value) const {
    return DriverStatus(wait_(stream, DevicePointer(word), value, CU_STREAM_WAIT_VALUE_GEQ), "cuStreamWaitValue32");
  }
  // When all before it in the stream has ended, and after what that wrote.
  Status Write(cudaStream_t stream, const void* word, uint32_t value) const {
    return DriverStatus(write_(stream, DevicePointer(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
                        "cuStreamWriteValue32");
  }

 private:
  using Operation = CUresult(CUstream, CUdeviceptr, cuuint32_t, unsigned);
  Operation* wait_ = nullptr;
  Operation* write_ = nullptr;
};

}  // namespace abacus

#endif  // ABACUS_WORKER_CUDA_CUDA_DRIVER_H_
