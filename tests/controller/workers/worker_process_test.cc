#include "controller/workers/worker_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "models/held_model.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;

class WorkerProcessTest : public testing::Test {
 protected:
  WorkerProcessTest() { fs::create_directories(folder_); }
  ~WorkerProcessTest() override {
    for (const int fd : open_) close(fd);
    fs::remove_all(folder_);
  }

  // An open file that holds its name, at this descriptor.
  int FileAt(const std::string& name, int target) {
    std::ofstream(folder_ / ("file-" + name)) << name;
    const int fd = open((folder_ / ("file-" + name)).c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(dup3(fd, target, O_CLOEXEC), target);
    close(fd);
    open_.push_back(target);
    return target;
  }
  // What a process that was handed these reads from them, and how many of our files it has open.
  std::string HandedOver(const std::vector<int>& descriptors) {
    WorkerProcess process;
    const std::string out = (folder_ / "out").string();
    const std::string code = "exec >" + out +
                             " 2>&1; for fd in 10 11 12; do cat /proc/self/fd/$fd; echo; done; ls -l /proc/$$/fd | "
                             "grep -c '" +
                             folder_.filename().string() + "/file-'";
    const Status started = process.Start({"/bin/bash", "-c", code}, {}, descriptors);
    EXPECT_TRUE(started.ok()) << started.message();
    pollfd exited{process.exit_fd(), POLLIN, 0};
    EXPECT_EQ(poll(&exited, 1, 30'000), 1);
    EXPECT_TRUE(process.Reap().has_value());
    std::stringstream text;
    text << std::ifstream(out).rdbuf();
    return text.str();
  }

  const fs::path folder_ = fs::path(testing::TempDir()) / ("worker-process-" + std::to_string(getpid()));
  std::vector<int> open_;
};

static_assert(kFirstHeldDescriptor == 10, "the script below reads from there");

TEST_F(WorkerProcessTest, HandsDescriptorsOverInOrder) {
  EXPECT_TRUE(HandedOver({FileAt("a", 40), FileAt("b", 30), FileAt("c", 50)}).starts_with("a\nb\nc\n"));
}

// Each lies where another one, or it itself, is to go.
TEST_F(WorkerProcessTest, HandsDescriptorsOverThatLieInEachOthersPlaces) {
  const int a = FileAt("a", 12), b = FileAt("b", 11), c = FileAt("c", 10);
  EXPECT_TRUE(HandedOver({a, b, c}).starts_with("a\nb\nc\n"));
  EXPECT_TRUE(HandedOver({c, b, a}).starts_with("c\nb\na\n"));
  EXPECT_TRUE(HandedOver({b, a, c}).starts_with("b\na\nc\n"));
}

TEST_F(WorkerProcessTest, KeepsNothingOpenInTheNewProcessButWhatItIsHanded) {
  FileAt("ours", 77);
  EXPECT_EQ(HandedOver({FileAt("a", 60), FileAt("b", 61), FileAt("c", 62)}), "a\nb\nc\n3\n");
}

}  // namespace
}  // namespace abacus
