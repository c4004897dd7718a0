// ControllerProcess: a real controller with real workers, for end-to-end tests and benchmarks.
//
// Runs abacus-controller in a private run directory under its own name, waits until every service is ready, and ends
// it (SIGTERM, then SIGKILL after a limit) when destroyed. Nothing it does waits without a limit.
//
// The controller's standard error, which its workers share, is kept in a file until then. When it has ended, Complaint
// says what no controller may do: exit with another code than 0 (as sanitizers make it), end by a signal that nobody
// sent, or leave a sanitizer's report in the log.
#ifndef ABACUS_TESTS_SUPPORT_CONTROLLER_PROCESS_H_
#define ABACUS_TESTS_SUPPORT_CONTROLLER_PROCESS_H_

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
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
    // Takes a complaint that there is at the end; unset: it goes to standard error.
    std::function<void(const std::string& complaint)> on_complaint;
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
  Region& region() { return *region_; }
  // Of the service with this number.
  WorkerSlot& slot(size_t service);
  ServiceStats& stats(size_t service);
  pid_t worker_pid(size_t service) { return slot(service).pid.load(); }
  std::string Log() const;

  void Signal(int signal_number);
  // Waits for the process to end; its exit code, 128 + signal, or -1 when it still runs after the limit.
  int WaitExit(int timeout_s);
  bool WaitReady(int timeout_s);
  // Waits until a service is in this state; also where the others may never be ready.
  bool WaitState(size_t service, WorkerState state, int timeout_s);
  // Starts it again after it has ended, as before; true when it is ready.
  bool StartAgain();
  // What is wrong with how it ended, and the log that tells more; empty: nothing. After WaitExit.
  std::string Complaint() const;

 private:
  void Start();
  bool Attach();

  const Options options_;
  std::filesystem::path directory_;
  std::string name_;
  std::string error_;
  pid_t pid_ = -1;
  int exit_code_ = -1;
  std::set<int> signals_sent_;
  std::unique_ptr<Region> region_;
};

// The part of a log that a sanitizer wrote, from its first word on; empty: none did.
std::string SanitizerReport(const std::string& log);

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
