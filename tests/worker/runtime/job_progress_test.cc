#include "worker/runtime/job_progress.h"

#include <gtest/gtest.h>

namespace abacus {
namespace {

TEST(JobProgress, NothingContinuesAtFirst) {
  const JobProgress progress;
  EXPECT_FALSE(progress.Continues(0, 0, 0)) << "the first range of a job continues nothing";
  EXPECT_FALSE(progress.Continues(0, 0, 4));
}

TEST(JobProgress, OnlyTheNextRangeContinues) {
  JobProgress progress;
  progress.Begin(7, 2);
  EXPECT_FALSE(progress.Continues(7, 2, 4)) << "its first range was not started yet";
  progress.Advance(4, 10);
  EXPECT_TRUE(progress.Continues(7, 2, 4));
  EXPECT_FALSE(progress.Continues(7, 2, 0));
  EXPECT_FALSE(progress.Continues(7, 2, 5));
  EXPECT_FALSE(progress.Continues(7, 1, 4)) << "another bucket";
  EXPECT_FALSE(progress.Continues(8, 2, 4)) << "another job";
  progress.Advance(7, 10);
  EXPECT_FALSE(progress.Continues(7, 2, 4));
  EXPECT_TRUE(progress.Continues(7, 2, 7));
}

TEST(JobProgress, ACompleteAFailedAndAReplacedJobEnd) {
  JobProgress progress;
  progress.Begin(1, 0);
  progress.Advance(10, 10);
  EXPECT_FALSE(progress.Continues(1, 0, 10));
  progress.Begin(2, 0);
  progress.Advance(4, 10);
  progress.End();
  EXPECT_FALSE(progress.Continues(2, 0, 4));
  EXPECT_TRUE(progress.IsJob(2));
  progress.Begin(3, 0);
  progress.Advance(4, 10);
  progress.Begin(4, 0);
  EXPECT_FALSE(progress.Continues(3, 0, 4));
  EXPECT_FALSE(progress.Continues(4, 0, 4));
  EXPECT_FALSE(progress.IsJob(3));
}

}  // namespace
}  // namespace abacus
