#include "tests/support/controller_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iostream>
#include <sstream>

#include "base/clock.h"

extern char** environ;

namespace abacus::test {
namespace {

namespace fs = std::filesystem;

constexpr int kStopTimeoutS = 60;  // draining may take its 10 s, and everything takes longer under sanitizers
constexpr size_t kShownBytes = 6000;

std::string UniqueName() {
  static std::atomic<int> counter{0};
  return "e2e-" + std::to_string(getpid()) + "-" + std::to_string(counter.fetch_add(1));
}

std::string EndOf(const std::string& text) {
  return text.size() <= kShownBytes ? text : "[...]" + text.substr(text.size() - kShownBytes);
}

}  // namespace

std::string SanitizerReport(const std::string& log) {
  size_t begin = log.find("runtime error:");  // of UBSan
  for (const std::string severity : {"WARNING: ", "ERROR: ", "FATAL: "}) {
    // Not by name alone: at its end ThreadSanitizer also says which suppressions it used.
    for (const char* kind : {"Thread", "Address", "Leak", "UndefinedBehavior"}) {
      begin = std::min(begin, log.find(severity + kind + "Sanitizer"));
    }
  }
  if (begin == std::string::npos) return "";
  const size_t line = log.rfind('\n', begin);
  return log.substr(line == std::string::npos ? 0 : line + 1, kShownBytes);
}

ControllerProcess::ControllerProcess(Options options) : options_(std::move(options)), name_(UniqueName()) {
  // Short, because an ipc socket's path may not exceed 107 bytes.
  directory_ = fs::temp_directory_path() / ("abacus-" + name_);
  fs::create_directories(directory_);
  fs::permissions(directory_, fs::perms::owner_all);
  for (const auto& [file, content] : options_.files) std::ofstream(directory_ / file) << content;
  std::ofstream(directory_ / "config.toml")
      << "[server]\nname = \"" << name_ << "\"\nlisten = [\"tcp://127.0.0.1:*\"]\n"
      << options_.server << "\n"
      << options_.config;
  Start();
}

void ControllerProcess::Start() {
  std::vector<std::string> environment = {"ABACUS_RUN_DIR=" + directory_.string()};
  for (char** e = environ; *e != nullptr; ++e) {
    if (std::string(*e).rfind("ABACUS_RUN_DIR=", 0) != 0) environment.emplace_back(*e);
  }
  std::vector<char*> env, args;
  for (auto& e : environment) env.push_back(e.data());
  env.push_back(nullptr);
  std::vector<std::string> line = command();
  for (auto& a : line) args.push_back(a.data());
  args.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string log = (directory_ / "log").string();
  // O_APPEND: the workers write to it, too.
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  exit_code_ = -1;
  signals_sent_.clear();
  region_.reset();
  error_.clear();
  const int failed = posix_spawn(&pid_, args[0], &actions, nullptr, args.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    pid_ = -1;
    error_ = "cannot run " + line[0] + ": " + strerror(failed);
    return;
  }
  if (options_.wait_ready && !WaitReady(options_.ready_timeout_s)) error_ = "not ready:\n" + Log();
}

bool ControllerProcess::StartAgain() {
  Start();
  return error_.empty();
}

ControllerProcess::~ControllerProcess() {
  if (running()) {
    Signal(SIGTERM);
    if (WaitExit(kStopTimeoutS) < 0) {
      kill(pid_, SIGKILL);  // not by Signal: nobody asked for it, so it is something to complain about
      WaitExit(5);
    }
  }
  const std::string complaint = Complaint();
  if (!complaint.empty() && options_.on_complaint) {
    options_.on_complaint(complaint);
  } else {
    std::cerr << complaint;
  }
  region_.reset();
  std::error_code ignored;
  fs::remove("/dev/shm/abacus-" + name_, ignored);  // left behind only after SIGKILL
  fs::remove_all(directory_, ignored);
}

std::string ControllerProcess::Complaint() const {
  const std::string log = Log();
  std::string complaint;
  if (pid_ > 0) {
    complaint = "does not end";
  } else if (exit_code_ > 128) {
    const int signal_number = exit_code_ - 128;
    // SIGTERM is caught; it ends nobody by itself.
    if (signal_number == SIGTERM || !signals_sent_.contains(signal_number)) {
      complaint = "was killed by signal " + std::to_string(signal_number) + " (" + strsignal(signal_number) + ")";
    }
  } else if (exit_code_ > 0) {
    complaint = "exited with code " + std::to_string(exit_code_);
  }
  const std::string report = SanitizerReport(log);
  if (!report.empty()) {
    complaint += (complaint.empty() ? "" : ", and ") + std::string("it or a worker of it left a sanitizer's report");
  }
  if (complaint.empty()) return "";
  return "controller " + name_ + ": " + complaint + "\n" +
         (report.empty() ? "" : "---- the report:\n" + report + "\n") + "---- the end of its log:\n" + EndOf(log) +
         "----\n";
}

std::vector<std::string> ControllerProcess::command() const {
  return {(options_.bin_dir / "abacus-controller").string(), "--config", (directory_ / "config.toml").string()};
}

bool ControllerProcess::running() {
  if (pid_ <= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return false;
}

bool ControllerProcess::WaitReady(int timeout_s) {
  return Eventually(timeout_s * 1000,
                    [&] {
                      if (!running()) return true;
                      if (!Attach()) return false;
                      for (size_t i = 0; i < region_->service_count(); ++i) {
                        const auto state = static_cast<WorkerState>(slot(i).state.load());
                        if (state != WorkerState::kServing) return false;
                      }
                      return true;
                    }) &&
         running();
}

bool ControllerProcess::WaitState(size_t service, WorkerState state, int timeout_s) {
  return Eventually(timeout_s * 1000, [&] {
    return running() && Attach() && service < region_->service_count() &&
           slot(service).state.load(std::memory_order_acquire) == static_cast<uint32_t>(state);
  });
}

bool ControllerProcess::Attach() {
  if (region_) return true;
  auto opened = Region::Open(name_, Region::Access::kReadWrite, 0);
  if (!opened || (*opened)->header().owner_pid != pid_) return false;
  region_ = std::move(*opened);
  return true;
}

WorkerSlot& ControllerProcess::slot(size_t service) {
  return region_->worker(WorkerId(region_->service(ServiceId(service)).worker.load()));
}
ServiceStats& ControllerProcess::stats(size_t service) { return region_->service(ServiceId(service)).stats; }

std::string ControllerProcess::tcp() const { return LoadText(region_->header().endpoint); }
std::string ControllerProcess::ipc() const { return "ipc://" + (directory_ / name_ / "controller.ipc").string(); }

std::string ControllerProcess::Log() const {
  std::stringstream text;
  text << std::ifstream(directory_ / "log").rdbuf();
  return text.str();
}

void ControllerProcess::Signal(int signal_number) {
  if (pid_ <= 0) return;
  signals_sent_.insert(signal_number);
  kill(pid_, signal_number);
}

int ControllerProcess::WaitExit(int timeout_s) {
  return Eventually(timeout_s * 1000, [&] { return !running(); }) ? exit_code_ : -1;
}

}  // namespace abacus::test
