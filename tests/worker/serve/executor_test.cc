#include "worker/serve/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/worker/serve/executor_fixture.h"

namespace abacus {
namespace {

using test::ExecutorTest;
using test::kBlockBytes;
using test::ScriptedRuntime;

TEST_F(ExecutorTest, RunsConsecutiveRangesOfAJob) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_TRUE(Ok(Do(Range(1, 4, 7))));
  const Completion last = Do(Range(1, 7, 10));
  EXPECT_TRUE(Ok(last));
  EXPECT_EQ(last.job_id, 1u);
  EXPECT_EQ(last.first, 7u);
  EXPECT_EQ(last.last, 10u);
  EXPECT_GE(last.ended_ns, last.started_ns);
  ASSERT_EQ(runtime_.calls.size(), 3u);
  EXPECT_EQ(runtime_.calls[0].bucket, 0u);
  EXPECT_EQ(runtime_.calls[0].first, 0u);
  EXPECT_EQ(runtime_.calls[0].last, 4u);
  for (const ScriptedRuntime::Call& call : runtime_.calls) {
    EXPECT_EQ(call.queries, std::vector{Seen({0, kBlockBytes, 1, 0, 0, 1})});
  }
}

TEST_F(ExecutorTest, RefusesARangeWithoutItsPrefix) {
  EXPECT_FALSE(Ok(Do(Range(1, 4, 7))));  // never started
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_FALSE(Ok(Do(Range(1, 7, 10))));  // a gap
  EXPECT_FALSE(Ok(Do(Range(2, 4, 7))));   // another job
  EXPECT_EQ(runtime_.calls.size(), 1u) << "a refused range must not reach the runtime";
  EXPECT_TRUE(Ok(Do(Range(1, 4, 10)))) << "a refused command changes nothing";
}

TEST_F(ExecutorTest, ANewJobAbandonsTheOneBefore) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_TRUE(Ok(Do(Range(2, 0, 4))));
  EXPECT_FALSE(Ok(Do(Range(1, 4, 7))));
  EXPECT_TRUE(Ok(Do(Range(2, 4, 10))));
}

TEST_F(ExecutorTest, AFailedRangeEndsItsJob) {
  runtime_.result = Status(StatusCode::kWorkerFailed, "boom");
  const Completion failed = Do(Range(1, 0, 4));
  EXPECT_EQ(failed.status, static_cast<uint32_t>(StatusCode::kWorkerFailed));
  EXPECT_EQ(LoadText(slot().error), "boom");
  runtime_.result = Status::Ok();
  EXPECT_FALSE(Ok(Do(Range(1, 4, 7))));
}

TEST_F(ExecutorTest, RefusesNonsense) {
  EXPECT_FALSE(Ok(Do(Range(1, 0, 5))));  // not a cut point
  EXPECT_FALSE(Ok(Do(Range(1, 0, 11))));
  EXPECT_FALSE(Ok(Do(Range(1, 0, 0))));
  Command command = Range(1, 0, 4);
  command.bucket = 3;
  EXPECT_FALSE(Ok(Do(command)));
  command = Range(1, 0, 4);
  command.kind = 7;
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(runtime_.calls.empty());
}

TEST_F(ExecutorTest, ASyntheticJobHasNoTensors) {
  Command command = Range(1, 0, 10);
  command.flags = Command::kSynthetic;
  command.query_count = 0;
  EXPECT_TRUE(Ok(Do(command)));
  ASSERT_EQ(runtime_.calls.size(), 1u);
  EXPECT_TRUE(runtime_.calls[0].queries.empty());
}

TEST_F(ExecutorTest, ARangeContinuesInItsBucketOnly) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  Command command = Range(1, 4, 7);
  command.bucket = 1;
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(Ok(Do(Range(1, 4, 10))));
  EXPECT_FALSE(Ok(Do(Range(1, 4, 10)))) << "the job is complete";
}

TEST_F(ExecutorTest, AFatalErrorEndsServing) {
  runtime_.result = Status(StatusCode::kWorkerFailed, "the GPU is gone");
  runtime_.fatal = true;
  Send(Range(1, 0, 4));
  const std::atomic<bool> stop{false};
  EXPECT_FALSE(executor_->Serve(stop, 0).ok());
  Completion completion;
  ASSERT_TRUE(slot().completions.TryPop(&completion));
  EXPECT_EQ(completion.fatal, 1u);
}

TEST_F(ExecutorTest, StopEndsServing) {
  Command command;
  command.kind = Command::kStop;
  ASSERT_TRUE(slot().commands.TryPush(command));
  const std::atomic<bool> stop{false};
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  EXPECT_GT(slot().heartbeat_ns.load(), 0u);
}

TEST_F(ExecutorTest, PublishesItsRanges) {
  executor_->PublishRanges("the digest");
  for (uint32_t b = 0; b < 3; ++b) {
    EXPECT_EQ(slot().ranges[b].operators, 10u);
    EXPECT_EQ(slot().ranges[b].cut_count, 4u);
    EXPECT_EQ(slot().ranges[b].cuts[2], 7u);
    EXPECT_EQ(slot().ranges[b].solo_ns, 1000u);
  }
  EXPECT_EQ(LoadText(slot().device_name), "scripted device");
  EXPECT_EQ(LoadText(slot().libraries), "none");
  EXPECT_EQ(LoadText(slot().structure), "scripted structure");
  EXPECT_EQ(LoadText(slot().measured_digest), "the digest");
}

}  // namespace
}  // namespace abacus
