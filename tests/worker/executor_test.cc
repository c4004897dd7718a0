#include "worker/executor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <vector>

#include "tests/support/specs.h"

namespace abacus {
namespace {

// Records what it is asked to run; fails or turns fatal on demand.
class RecordingRuntime : public ModelRuntime {
 public:
  struct Call {
    uint32_t bucket, first, last;
    size_t inputs, outputs;
    bool operator==(const Call&) const = default;
  };
  const BucketRanges& ranges(uint32_t) const override { return ranges_; }
  Status Run(uint32_t bucket, uint32_t first, uint32_t last, const JobTensors& tensors) override {
    calls.push_back({bucket, first, last, tensors.inputs.size(), tensors.outputs.size()});
    return result;
  }
  bool IsFatal() const override { return fatal; }

  std::vector<Call> calls;
  Status result;
  bool fatal = false;

 private:
  const BucketRanges ranges_{10, {0, 4, 7, 10}, 1000};
};

class ExecutorTest : public testing::Test {
 protected:
  ExecutorTest() {
    region_ = Region::Create("exec-" + std::to_string(getpid()), 1, 1 << 20).value();
    executor_ = std::make_unique<Executor>(region_.get(), 0, spec_, &runtime_);
  }
  WorkerBlock& block() { return region_->worker(0); }

  Completion Do(Command command) {
    command.kind = Command::kRun;
    EXPECT_TRUE(block().commands.TryPush(command));
    EXPECT_TRUE(executor_->DoWork());
    Completion completion;
    EXPECT_TRUE(block().completions.TryPop(&completion)) << "exactly one completion per command";
    Completion extra;
    EXPECT_FALSE(block().completions.TryPop(&extra));
    return completion;
  }
  static Command Range(uint64_t job, uint32_t first, uint32_t last) {
    Command command;
    command.job_id = job;
    command.first = first;
    command.last = last;
    command.block_bytes = 4096;
    return command;
  }
  static bool Ok(const Completion& completion) { return completion.status == 0; }

  const ModelSpec spec_ = test::ImageSpec();
  RecordingRuntime runtime_;
  std::unique_ptr<Region> region_;
  std::unique_ptr<Executor> executor_;
};

TEST_F(ExecutorTest, RunsConsecutiveRangesOfAJob) {
  EXPECT_TRUE(Ok(Do(Range(1, 0, 4))));
  EXPECT_TRUE(Ok(Do(Range(1, 4, 7))));
  const Completion last = Do(Range(1, 7, 10));
  EXPECT_TRUE(Ok(last));
  EXPECT_EQ(last.job_id, 1u);
  EXPECT_EQ(last.first, 7u);
  EXPECT_EQ(last.last, 10u);
  EXPECT_GE(last.ended_ns, last.started_ns);
  EXPECT_EQ(runtime_.calls.size(), 3u);
  EXPECT_EQ(runtime_.calls[0], (RecordingRuntime::Call{0, 0, 4, 1, 1}));
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
  EXPECT_EQ(LoadText(block().error), "boom");
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
  command.block_bytes = 16;  // smaller than the bucket's tensors
  EXPECT_FALSE(Ok(Do(command)));
  command = Range(1, 0, 4);
  command.block_offset = (1 << 20) - 4095;  // ends outside the arena
  EXPECT_FALSE(Ok(Do(command)));
  command.block_offset = UINT64_MAX - 100;  // wraps around
  EXPECT_FALSE(Ok(Do(command)));
  EXPECT_TRUE(runtime_.calls.empty());
}

TEST_F(ExecutorTest, ASyntheticJobHasNoTensors) {
  Command command = Range(1, 0, 10);
  command.flags = Command::kSynthetic;
  command.block_bytes = 0;
  EXPECT_TRUE(Ok(Do(command)));
  EXPECT_EQ(runtime_.calls[0], (RecordingRuntime::Call{0, 0, 10, 0, 0}));
}

TEST_F(ExecutorTest, AFatalErrorEndsServing) {
  runtime_.result = Status(StatusCode::kWorkerFailed, "the GPU is gone");
  runtime_.fatal = true;
  Command command = Range(1, 0, 4);
  command.kind = Command::kRun;
  ASSERT_TRUE(block().commands.TryPush(command));
  const std::atomic<bool> stop{false};
  EXPECT_FALSE(executor_->Serve(stop, 0).ok());
  Completion completion;
  ASSERT_TRUE(block().completions.TryPop(&completion));
  EXPECT_EQ(completion.fatal, 1u);
}

TEST_F(ExecutorTest, StopEndsServing) {
  Command command;
  command.kind = Command::kStop;
  ASSERT_TRUE(block().commands.TryPush(command));
  const std::atomic<bool> stop{false};
  EXPECT_TRUE(executor_->Serve(stop, 0).ok());
  EXPECT_GT(block().heartbeat_ns.load(), 0u);
}

TEST_F(ExecutorTest, PublishesItsRanges) {
  executor_->PublishRanges();
  for (uint32_t b = 0; b < 3; ++b) {
    EXPECT_EQ(block().ranges[b].operators, 10u);
    EXPECT_EQ(block().ranges[b].cut_count, 4u);
    EXPECT_EQ(block().ranges[b].cuts[2], 7u);
    EXPECT_EQ(block().ranges[b].solo_ns, 1000u);
  }
}

}  // namespace
}  // namespace abacus
