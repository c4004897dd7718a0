#include "worker/cuda/gpu_clock.h"

#include "worker/cuda/cuda_driver.h"

namespace abacus {
namespace {

// The oldest GPU generation that CUDA 13 compiles for; runs on all later ones.
constexpr const char* kPtx = R"(
.version 6.3
.target sm_75
.address_size 64

.visible .entry abacus_record_time(.param .u64 slot)
{
  .reg .u64 %slot, %now;
  ld.param.u64 %slot, [slot];
  cvta.to.global.u64 %slot, %slot;
  mov.u64 %now, %globaltimer;
  st.volatile.global.u64 [%slot], %now;
  ret;
}
)";

}  // namespace

Result<GpuClock> GpuClock::Create() {
  CUresult (*load)(CUmodule*, const void*) = nullptr;
  CUresult (*get_function)(CUfunction*, CUmodule, const char*) = nullptr;
  LaunchKernel* launch = nullptr;
  ABACUS_RETURN_IF_ERROR(FindDriverFunction("cuModuleLoadData", &load));
  ABACUS_RETURN_IF_ERROR(FindDriverFunction("cuModuleGetFunction", &get_function));
  ABACUS_RETURN_IF_ERROR(FindDriverFunction("cuLaunchKernel", &launch));
  CUmodule module = nullptr;
  if (const Status loaded = DriverStatus(load(&module, kPtx), "cuModuleLoadData"); !loaded.ok()) {
    return Error(StatusCode::kUnavailable, loaded.message());
  }
  CUfunction kernel = nullptr;
  if (const Status found = DriverStatus(get_function(&kernel, module, "abacus_record_time"), "cuModuleGetFunction");
      !found.ok()) {
    return Error(StatusCode::kUnavailable, found.message());
  }
  return GpuClock(kernel, launch);
}

Status GpuClock::Record(cudaStream_t stream, uint64_t* slot) const {
  void* arguments[] = {static_cast<void*>(&slot)};
  return DriverStatus(launch_(kernel_, 1, 1, 1, 1, 1, 1, 0, stream, arguments, nullptr), "cuLaunchKernel");
}

}  // namespace abacus
