#include "controller/subprocess.h"

#include <gtest/gtest.h>

#include "shm/clock.h"

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

TEST(RunCommand, KillsWhatTakesTooLong) {
  const uint64_t begin_ns = MonotonicNs();
  const auto output = RunCommand({"sleep", "60"}, "", 50 * kNsPerMs);
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code(), StatusCode::kTimeout);
  EXPECT_LT(MonotonicNs() - begin_ns, 10 * kNsPerSecond);
}

}  // namespace
}  // namespace abacus
