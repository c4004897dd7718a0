// The run directory: locks, sockets, logs and MPS folders of the controllers of one user.
//
// It is $ABACUS_RUN_DIR, else $XDG_RUNTIME_DIR/abacus, else /tmp/abacus-UID. A controller has a folder of its own in
// it, by its name. Thread rule: the main thread, before others exist. Errors name the file or directory.
#ifndef ABACUS_CONTROLLER_APP_RUN_DIRECTORY_H_
#define ABACUS_CONTROLLER_APP_RUN_DIRECTORY_H_

#include <filesystem>
#include <string>

#include "base/status.h"

namespace abacus {

// Created with mode 0700; an existing one that is a link, open to others or owned by somebody else is an error.
Result<std::filesystem::path> RunDirectory();

// The folder of one controller, made where it is missing and locked for as long as the object lives: a second
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

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_APP_RUN_DIRECTORY_H_
