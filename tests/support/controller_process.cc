#include "tests/support/controller_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <sstream>

#include "shm/clock.h"

extern char** environ;

namespace abacus::test {
namespace {

namespace fs = std::filesystem;

std::string UniqueName() {
  static std::atomic<int> counter{0};
  return "e2e-" + std::to_string(getpid()) + "-" + std::to_string(counter.fetch_add(1));
}

}  // namespace

ControllerProcess::ControllerProcess(Options options) : bin_dir_(std::move(options.bin_dir)), name_(UniqueName()) {
  // Short, because an ipc socket's path may not exceed 107 bytes.
  directory_ = fs::temp_directory_path() / ("abacus-" + name_);
  fs::create_directories(directory_);
  fs::permissions(directory_, fs::perms::owner_all);
  for (const auto& [file, content] : options.files) std::ofstream(directory_ / file) << content;
  std::ofstream(directory_ / "config.toml")
      << "[server]\nname = \"" << name_ << "\"\nlisten = [\"tcp://127.0.0.1:*\"]\n"
      << options.server << "\n"
      << options.config;

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
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int failed = posix_spawn(&pid_, args[0], &actions, nullptr, args.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    pid_ = -1;
    error_ = "cannot run " + line[0] + ": " + strerror(failed);
    return;
  }
  if (options.wait_ready && !WaitReady(options.ready_timeout_s)) error_ = "not ready:\n" + Log();
}

ControllerProcess::~ControllerProcess() {
  if (pid_ > 0) {
    Signal(SIGTERM);
    if (WaitExit(15) < 0) {
      Signal(SIGKILL);
      WaitExit(5);
    }
  }
  region_.reset();
  std::error_code ignored;
  fs::remove("/dev/shm/abacus-" + name_, ignored);  // left behind only after SIGKILL
  fs::remove_all(directory_, ignored);
}

std::vector<std::string> ControllerProcess::command() const {
  return {(bin_dir_ / "abacus-controller").string(), "--config", (directory_ / "config.toml").string()};
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
                      if (!region_) {
                        auto opened = Region::Open(name_, Region::Access::kReadWrite, 0);
                        if (!opened || (*opened)->header().owner_pid != pid_) return false;
                        region_ = std::move(*opened);
                      }
                      for (size_t i = 0; i < region_->worker_count(); ++i) {
                        const auto state = static_cast<WorkerState>(region_->worker(i).state.load());
                        if (state != WorkerState::kServing) return false;
                      }
                      return true;
                    }) &&
         running();
}

pid_t ControllerProcess::worker_pid(size_t index) { return region_->worker(index).pid.load(); }

std::string ControllerProcess::tcp() const { return LoadText(region_->header().endpoint); }
std::string ControllerProcess::ipc() const { return "ipc://" + (directory_ / name_ / "controller.ipc").string(); }

std::string ControllerProcess::Log() const {
  std::stringstream text;
  text << std::ifstream(directory_ / "log").rdbuf();
  return text.str();
}

void ControllerProcess::Signal(int signal_number) {
  if (pid_ > 0) kill(pid_, signal_number);
}

int ControllerProcess::WaitExit(int timeout_s) {
  return Eventually(timeout_s * 1000, [&] { return !running(); }) ? exit_code_ : -1;
}

}  // namespace abacus::test
