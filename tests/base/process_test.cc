#include "base/process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

namespace abacus {
namespace {

TEST(Process, KnowsItselfAndForgetsTheDead) {
  EXPECT_TRUE(ProcessStartTicks(getpid()).has_value());
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  const auto ticks = ProcessStartTicks(child);
  ASSERT_TRUE(ticks.has_value());
  EXPECT_GE(*ticks, *ProcessStartTicks(getpid()));
  const int fd = OpenPidFd(child);
  ASSERT_GE(fd, 0);
  kill(child, SIGKILL);
  pollfd poll_fd{fd, POLLIN, 0};
  EXPECT_EQ(poll(&poll_fd, 1, 5000), 1);
  EXPECT_FALSE(ProcessStartTicks(child).has_value()) << "a zombie counts as gone";
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(ProcessStartTicks(child).has_value());
  close(fd);
}

}  // namespace
}  // namespace abacus
