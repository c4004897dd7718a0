#include "controller/workers/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/clock.h"

extern char** environ;

namespace abacus {

std::vector<std::string> EnvironmentWith(const std::vector<std::string>& settings) {
  std::vector<std::string> environment = settings;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view ours = *entry;
    const std::string_view name = ours.substr(0, ours.find('=') + 1);  // with its '='
    const auto replaced = [&](const std::string& setting) { return setting.starts_with(name); };
    if (std::none_of(settings.begin(), settings.end(), replaced)) environment.emplace_back(ours);
  }
  return environment;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

Result<std::string> RunCommand(const std::vector<std::string>& argv, const std::string& input, uint64_t timeout_ns,
                               const std::vector<std::string>& environment) {
  int to_child[2], from_child[2];
  if (pipe2(to_child, O_CLOEXEC) != 0) return Error(StatusCode::kUnavailable, "out of file descriptors");
  if (pipe2(from_child, O_CLOEXEC) != 0) {
    close(to_child[0]);
    close(to_child[1]);
    return Error(StatusCode::kUnavailable, "out of file descriptors");
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], STDERR_FILENO);
  const std::vector<std::string> settings = EnvironmentWith(environment);
  pid_t pid = -1;
  const int spawned =
      posix_spawnp(&pid, argv[0].c_str(), &actions, nullptr, Pointers(argv).data(), Pointers(settings).data());
  posix_spawn_file_actions_destroy(&actions);
  close(to_child[0]);
  close(from_child[1]);
  if (spawned == 0) {
    // Inputs are a few bytes and fit the pipe; a child that does not read them is caught by the time limit.
    [[maybe_unused]] const ssize_t written = write(to_child[1], input.data(), input.size());
  }
  close(to_child[1]);
  if (spawned != 0) {
    close(from_child[0]);
    return Error(StatusCode::kUnavailable, "cannot run " + argv[0] + ": " + std::strerror(spawned));
  }
  std::string output;
  bool timed_out = false;
  const uint64_t deadline_ns = MonotonicNs() + timeout_ns;
  for (;;) {
    const uint64_t now_ns = MonotonicNs();
    pollfd poll_fd{from_child[0], POLLIN, 0};
    const int ready =
        now_ns >= deadline_ns ? 0 : poll(&poll_fd, 1, static_cast<int>((deadline_ns - now_ns) / kNsPerMs) + 1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      timed_out = true;
      kill(pid, SIGKILL);
      break;
    }
    char buffer[4096];
    const ssize_t got = read(from_child[0], buffer, sizeof(buffer));
    if (got <= 0) break;
    output.append(buffer, static_cast<size_t>(got));
  }
  close(from_child[0]);
  int exit_status = 0;
  while (waitpid(pid, &exit_status, 0) < 0 && errno == EINTR) {
  }
  if (timed_out) return Error(StatusCode::kTimeout, argv[0] + " did not finish in time");
  if (!WIFEXITED(exit_status) || WEXITSTATUS(exit_status) != 0) {
    while (!output.empty() && output.back() == '\n') output.pop_back();
    return Error(StatusCode::kInternal, argv[0] + " failed: " + output);
  }
  return output;
}

}  // namespace abacus
