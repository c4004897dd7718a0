#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace abacus {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class WholeFileTest : public testing::Test {
 protected:
  WholeFileTest() { fs::create_directories(folder_); }
  ~WholeFileTest() override { fs::remove_all(folder_); }
  const fs::path folder_ = fs::path(testing::TempDir()) / ("whole_file_" + std::to_string(getpid()));
};

TEST_F(WholeFileTest, ReadsWhatWasWrittenAndReplacesIt) {
  const std::string content("a\0b\n", 4);
  ASSERT_TRUE(WriteWholeFile(folder_ / "x", "before").ok());
  ASSERT_TRUE(WriteWholeFile(folder_ / "x", content).ok());
  const Result<std::string> read = ReadWholeFile(folder_ / "x", 4);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(*read, content);
  EXPECT_FALSE(fs::exists(folder_ / "x.new"));
}

TEST_F(WholeFileTest, SaysWhyItCannotBeRead) {
  const auto missing = ReadWholeFile(folder_ / "missing");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("missing: cannot be read (No such file"));
  const auto folder = ReadWholeFile(folder_);
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(folder.error().message(), HasSubstr("Is a directory"));
  ASSERT_TRUE(WriteWholeFile(folder_ / "x", std::string((1 << 20) + 1, 'x')).ok());
  const auto large = ReadWholeFile(folder_ / "x", 1 << 20);
  ASSERT_FALSE(large);
  EXPECT_THAT(large.error().message(), HasSubstr("x: is larger than 1 MiB"));
}

TEST_F(WholeFileTest, SaysWhyItCannotBeWrittenAndLeavesNothing) {
  const Status no_folder = WriteWholeFile(folder_ / "none" / "x", "content");
  EXPECT_EQ(no_folder.code(), StatusCode::kUnavailable);
  EXPECT_THAT(no_folder.message(), HasSubstr("none/x: cannot be written: No such file"));
  fs::create_directories(folder_ / "taken" / "inside");
  EXPECT_FALSE(WriteWholeFile(folder_ / "taken", "content").ok());
  EXPECT_FALSE(fs::exists(folder_ / "taken.new"));
}

}  // namespace
}  // namespace abacus
