#include "controller/app/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace abacus {

namespace fs = std::filesystem;

Result<std::filesystem::path> RunDirectory() {
  const auto variable = [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  };
  std::filesystem::path directory = "/tmp/abacus-" + std::to_string(geteuid());
  if (const auto run_dir = variable("ABACUS_RUN_DIR")) {
    directory = *run_dir;
  } else if (const auto runtime_dir = variable("XDG_RUNTIME_DIR")) {
    directory = std::filesystem::path(*runtime_dir) / "abacus";
  }
  const std::string name = directory.string();
  if (!directory.is_absolute()) {
    return Error(StatusCode::kInvalidArgument, "run directory " + name + ": must be an absolute path");
  }
  if (mkdir(name.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error(StatusCode::kUnavailable, "run directory " + name + ": cannot be created: " + std::strerror(errno) +
                                               "; name another one in ABACUS_RUN_DIR");
  }
  // lstat, not stat: somebody else's symbolic link in /tmp must not choose where our files go.
  struct stat info {};
  if (lstat(name.c_str(), &info) != 0) {
    return Error(StatusCode::kUnavailable, "run directory " + name + ": " + std::strerror(errno));
  }
  if (!S_ISDIR(info.st_mode)) {
    return Error(StatusCode::kInvalidArgument, "run directory " + name + ": is a link or a file, not a directory");
  }
  if (info.st_uid != geteuid()) {
    return Error(StatusCode::kInvalidArgument, "run directory " + name + ": belongs to user " +
                                                   std::to_string(info.st_uid) +
                                                   "; name another one in ABACUS_RUN_DIR");
  }
  if ((info.st_mode & 077) != 0) {
    return Error(StatusCode::kInvalidArgument,
                 "run directory " + name + ": is open to other users; run: chmod 700 " + name);
  }
  return directory;
}

RunLock::~RunLock() {
  if (fd_ >= 0) close(fd_);
}

Status RunLock::Acquire(const std::string& name) {
  auto run_dir = RunDirectory();
  if (!run_dir) return run_dir.error();
  directory_ = *run_dir / name;
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) return {StatusCode::kUnavailable, "cannot create " + directory_.string() + ": " + error.message()};
  const fs::path path = directory_ / "controller.lock";
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0) return {StatusCode::kUnavailable, "cannot open " + path.string() + ": " + strerror(errno)};
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    char pid[32] = {};
    [[maybe_unused]] const ssize_t got = pread(fd_, pid, sizeof(pid) - 1, 0);
    return {StatusCode::kAlreadyExists, "a controller named '" + name + "' runs already (pid " + std::string(pid) +
                                            "); stop it or choose another [server] name"};
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(fd_, 0) != 0 || pwrite(fd_, pid.data(), pid.size(), 0) < 0) {
    return {StatusCode::kUnavailable, "cannot write " + path.string() + ": " + strerror(errno)};
  }
  return Status::Ok();
}

}  // namespace abacus
