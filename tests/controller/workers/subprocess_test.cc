#include "controller/workers/subprocess.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "base/clock.h"

namespace abacus {
namespace {

TEST(RunCommand, ReturnsOutputOfTheInput) {
  const auto output = RunCommand({"cat"}, "hello\n", kNsPerSecond);
  ASSERT_TRUE(output) << output.error().message();
  EXPECT_EQ(*output, "hello\n");
}

TEST(RunCommand, ReportsAMissingProgram) {
  const auto output = RunCommand({"no-such-program-here"}, "", kNsPerSecond);
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code(), StatusCode::kUnavailable);
}

TEST(RunCommand, ReportsFailureWithItsOutput) {
  const auto output = RunCommand({"sh", "-c", "echo reason >&2; exit 3"}, "", kNsPerSecond);
  ASSERT_FALSE(output);
  EXPECT_NE(output.error().message().find("reason"), std::string::npos);
}

TEST(RunCommand, SettingsReplaceThoseOfOurEnvironment) {
  setenv("ABACUS_TEST_ONE", "ours", 1);
  setenv("ABACUS_TEST_ONE_MORE", "kept", 1);
  const std::vector<std::string> settings = {"ABACUS_TEST_ONE=theirs", "ABACUS_TEST_NEW=new"};
  const auto output = RunCommand(
      {"sh", "-c", "echo $ABACUS_TEST_ONE $ABACUS_TEST_ONE_MORE $ABACUS_TEST_NEW; env | grep -c ABACUS_TEST_ONE="}, "",
      10 * kNsPerSecond, settings);
  unsetenv("ABACUS_TEST_ONE");
  unsetenv("ABACUS_TEST_ONE_MORE");
  ASSERT_TRUE(output) << output.error().message();
  EXPECT_EQ(*output, "theirs kept new\n1\n");
}

TEST(RunCommand, KillsWhatTakesTooLong) {
  const uint64_t begin_ns = MonotonicNs();
  const auto output = RunCommand({"sleep", "60"}, "", 50 * kNsPerMs);
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code(), StatusCode::kTimeout);
  EXPECT_LT(MonotonicNs() - begin_ns, 10 * kNsPerSecond);
}

}  // namespace
}  // namespace abacus
