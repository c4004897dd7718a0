// ControllerProcess: a real controller with real workers, for end-to-end tests and benchmarks.
//
// Runs abacus-controller in a private run directory under its own name, waits until every service is ready, and ends
// it (SIGTERM, then SIGKILL after a limit) when destroyed. Nothing it does waits without a limit.
#ifndef ABACUS_TESTS_SUPPORT_CONTROLLER_PROCESS_H_
#define ABACUS_TESTS_SUPPORT_CONTROLLER_PROCESS_H_

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shm/region.h"

namespace abacus::test {

class ControllerProcess {
 public:
  struct Options {
    std::filesystem::path bin_dir;
    std::string config;                        // TOML without [server]
    std::string server;                        // extra keys of [server]
    std::map<std::string, std::string> files;  // written beside the configuration: name -> content
    bool wait_ready = true;
    int ready_timeout_s = 60;
  };
  explicit ControllerProcess(Options options);
  ~ControllerProcess();
  ControllerProcess(const ControllerProcess&) = delete;
  ControllerProcess& operator=(const ControllerProcess&) = delete;

  bool running();
  const std::string& error() const { return error_; }  // why it is not running
  std::string tcp() const;                             // address as bound
  std::string ipc() const;
  const std::string& name() const { return name_; }
  const std::filesystem::path& directory() const { return directory_; }
  std::vector<std::string> command() const;  // to start a second one of the same configuration
  pid_t pid() const { return pid_; }
  pid_t worker_pid(size_t index);
  Region& region() { return *region_; }
  std::string Log() const;

  void Signal(int signal_number);
  // Waits for the process to end; its exit code, 128 + signal, or -1 when it still runs after the limit.
  int WaitExit(int timeout_s);
  bool WaitReady(int timeout_s);

 private:
  std::filesystem::path bin_dir_;
  std::filesystem::path directory_;
  std::string name_;
  std::string error_;
  pid_t pid_ = -1;
  int exit_code_ = -1;
  std::unique_ptr<Region> region_;
};

// How long a test waits for what must happen: long enough for a machine busy with other things.
inline constexpr int kPatienceMs = 30'000;

// Polls `condition` until it holds or `timeout_ms` passed; returns whether it held.
template <class Condition>
bool Eventually(int timeout_ms, const Condition& condition);

}  // namespace abacus::test

#include <chrono>
#include <thread>

template <class Condition>
bool abacus::test::Eventually(int timeout_ms, const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

#endif  // ABACUS_TESTS_SUPPORT_CONTROLLER_PROCESS_H_
