#include "controller/app/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace abacus {
namespace {

using ::testing::HasSubstr;

class RunDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/run_directory_test.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    unsetenv("ABACUS_RUN_DIR");
    unsetenv("XDG_RUNTIME_DIR");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static mode_t ModeOf(const std::filesystem::path& path) {
    struct stat info {};
    return stat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
  }

  std::filesystem::path root_;
};

TEST_F(RunDirectoryTest, IsMadeForThisUserAlone) {
  const std::filesystem::path wanted = root_ / "run";
  setenv("ABACUS_RUN_DIR", wanted.c_str(), 1);
  setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
  for (int again = 0; again < 2; ++again) {
    const Result<std::filesystem::path> directory = RunDirectory();
    ASSERT_TRUE(directory) << directory.error().message();
    EXPECT_EQ(*directory, wanted);
    EXPECT_EQ(ModeOf(wanted), 0700u);
  }
}

TEST_F(RunDirectoryTest, FallsBackToTheRuntimeDirectoryThenToTmp) {
  setenv("ABACUS_RUN_DIR", "", 1);
  setenv("XDG_RUNTIME_DIR", root_.c_str(), 1);
  EXPECT_EQ(RunDirectory().value(), root_ / "abacus");
  unsetenv("XDG_RUNTIME_DIR");
  const Result<std::filesystem::path> directory = RunDirectory();
  ASSERT_TRUE(directory) << directory.error().message();
  EXPECT_EQ(*directory, "/tmp/abacus-" + std::to_string(geteuid()));
}

TEST_F(RunDirectoryTest, RefusesWhatSomebodyElseCouldControl) {
  const auto expect_refused = [](const std::filesystem::path& path, std::string_view message) {
    setenv("ABACUS_RUN_DIR", path.c_str(), 1);
    const Result<std::filesystem::path> directory = RunDirectory();
    ASSERT_FALSE(directory) << path;
    EXPECT_THAT(directory.error().message(), HasSubstr(path.string()));
    EXPECT_THAT(directory.error().message(), HasSubstr(std::string(message)));
  };
  std::filesystem::create_directory(root_ / "target");
  std::filesystem::permissions(root_ / "target", std::filesystem::perms::owner_all);
  std::filesystem::create_directory_symlink(root_ / "target", root_ / "link");
  expect_refused(root_ / "link", "is a link");

  std::ofstream(root_ / "file") << "x";
  expect_refused(root_ / "file", "not a directory");

  std::filesystem::create_directory(root_ / "open");
  std::filesystem::permissions(root_ / "open", std::filesystem::perms::all);
  expect_refused(root_ / "open", "chmod 700");

  expect_refused("relative/path", "absolute");
  expect_refused(root_ / "missing" / "run", "cannot be created");

  if (geteuid() == 0) {  // only root can give a directory away
    std::filesystem::create_directory(root_ / "theirs");
    std::filesystem::permissions(root_ / "theirs", std::filesystem::perms::owner_all);
    ASSERT_EQ(chown((root_ / "theirs").c_str(), 12345, 12345), 0);
    expect_refused(root_ / "theirs", "belongs to user 12345");
  }
}

}  // namespace
}  // namespace abacus
