// Where workers run, and where their programs lie.
// Thread rule: free functions.
#ifndef ABACUS_CONTROLLER_WORKERS_DEVICE_H_
#define ABACUS_CONTROLLER_WORKERS_DEVICE_H_

#include <filesystem>

#include "controller/config/config.h"

namespace abacus {

// The folder of the running program; its workers lie beside it.
std::filesystem::path ProgramDirectory();

// kAuto becomes kCuda where a GPU and the CUDA runtime are, else kCpu.
DeviceKind ResolveDevice(DeviceKind configured, const std::filesystem::path& bin_dir);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_WORKERS_DEVICE_H_
