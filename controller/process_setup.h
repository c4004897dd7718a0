// What every program that owns workers does first: take its run directory, choose the device, catch signals.
// Thread rule: the main thread, before others exist. Errors name the file or directory.
#ifndef ABACUS_CONTROLLER_PROCESS_SETUP_H_
#define ABACUS_CONTROLLER_PROCESS_SETUP_H_

#include <filesystem>
#include <initializer_list>
#include <string>

#include "controller/config.h"
#include "shm/status.h"

namespace abacus {

// The run directory of this controller, made where it is missing and locked for as long as the object lives: a second
// controller of the same name is refused, and the kernel releases the lock when we die, however we die.
class RunLock {
 public:
  RunLock() = default;
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock();
  Status Acquire(const std::string& name);
  const std::filesystem::path& directory() const { return directory_; }

 private:
  std::filesystem::path directory_;
  int fd_ = -1;
};

// The folder of the running program; its workers lie beside it.
std::filesystem::path ProgramDirectory();

// kAuto becomes kCuda where a GPU and the CUDA runtime are, else kCpu.
DeviceKind ResolveDevice(DeviceKind configured, const std::filesystem::path& bin_dir);

// Blocks SIGTERM, SIGINT and `others` in this thread and those it starts; returns a signalfd that becomes readable for
// one.
int BlockSignals(std::initializer_list<int> others = {});
// Takes one signal from it; 0 when there is none.
int ConsumeSignal(int fd);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_PROCESS_SETUP_H_
