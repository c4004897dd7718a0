// abacus-train as a process: exit codes and signals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/predictor/train/synthetic_profile.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ToolTest : public ::testing::Test {
 protected:
  ToolTest() : folder_(fs::path(::testing::TempDir()) / ("abacus_train_tool_" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ToolTest() override { fs::remove_all(folder_); }

  // Runs `abacus-train arguments` to its end and shell commands beside it ($pid is its process); both outputs of it go
  // to output_.
  int Run(const std::string& arguments, const std::string& beside = ":") {
    const fs::path log = folder_ / "log";
    const std::string command = "cd " + folder_.string() + " && { " + ABACUS_BIN_DIR + "/abacus-train " + arguments +
                                " >" + log.string() + " 2>&1 & pid=$!; " + beside + "; wait $pid; }";
    const int status = std::system(command.c_str());
    std::ostringstream text;
    text << std::ifstream(log).rdbuf();
    output_ = text.str();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  const fs::path folder_;
  std::string output_;
};

TEST_F(ToolTest, ErrorsExitWithOne) {
  EXPECT_EQ(Run("--out x.predictor missing.jsonl"), 1);
  EXPECT_THAT(output_, HasSubstr("missing.jsonl: cannot be read"));
  EXPECT_EQ(Run("missing.jsonl"), 1);
  EXPECT_THAT(output_, HasSubstr("--out is required"));
  EXPECT_EQ(Run("--out x --folds 1 missing.jsonl"), 1);
  EXPECT_EQ(Run("--help"), 0);

  WriteProfile(MakeSyntheticProfile({}), folder_ / "one.jsonl");
  ProfileData other = MakeSyntheticProfile({});
  other.device = "another GPU";
  WriteProfile(other, folder_ / "two.jsonl");
  EXPECT_EQ(Run("--out x.predictor one.jsonl two.jsonl"), 1);
  EXPECT_THAT(output_, HasSubstr("the device differs"));
  EXPECT_FALSE(fs::exists(folder_ / "x.predictor"));
  EXPECT_FALSE(fs::exists(folder_ / "x.predictor.work"));
}

TEST_F(ToolTest, InterruptStopsCleanlyAndKeepsFinishedStages) {
  WriteProfile(MakeSyntheticProfile({}), folder_ / "one.jsonl");
  // The quick stages end while the networks are far from it. 60 seconds at most.
  const std::string interrupt =
      "for i in $(seq 600); do [ -e x.predictor.work/linear.json ] && break; sleep 0.1; done; kill -INT $pid";
  EXPECT_EQ(Run("--out x.predictor one.jsonl --epochs 1000 --threads 4", interrupt), 130);
  EXPECT_THAT(output_, HasSubstr("x.predictor.work keeps the finished stages"));
  EXPECT_TRUE(fs::exists(folder_ / "x.predictor.work" / "linear.json"));
  EXPECT_FALSE(fs::exists(folder_ / "x.predictor"));
}

}  // namespace
}  // namespace abacus
