#include "worker/fake_runtime.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>

#include "shm/clock.h"
#include "tests/support/specs.h"
#include "worker/executor.h"

namespace abacus {
namespace {

TEST(FakeRuntime, CutsEveryOperatorUpToTheLimit) {
  const ModelSpec small = test::ImageSpec(8);
  EXPECT_EQ(FakeRuntime(small).ranges(0).cuts.size(), 9u);
  const ModelSpec large = test::ImageSpec(1000);
  const FakeRuntime runtime(large);
  EXPECT_EQ(runtime.ranges(0).cuts.size(), kMaxCuts + 1);
  EXPECT_EQ(runtime.ranges(0).cuts.back(), 1000u);
}

TEST(FakeRuntime, EchoesTheInputWhenTheJobEnds) {
  const ModelSpec spec = test::ImageSpec();
  FakeRuntime runtime(spec);
  std::array<float, 4> in = {1, 2, 3, 4}, out = {};
  const std::array<const std::byte*, 1> inputs = {reinterpret_cast<const std::byte*>(in.data())};
  const std::array<std::byte*, 1> outputs = {reinterpret_cast<std::byte*>(out.data())};
  ASSERT_TRUE(runtime.Run(0, 0, 3, {inputs, outputs}).ok());
  EXPECT_EQ(out[0], 0) << "not before the last range";
  ASSERT_TRUE(runtime.Run(0, 3, 8, {inputs, outputs}).ok());
  EXPECT_EQ(out, in);
}

TEST(FakeRuntime, TakesTheTimeItIsTold) {
  ModelSpec spec = test::ImageSpec();
  spec.fake.base_us = 2000;
  spec.fake.per_row_us = 500;
  FakeRuntime runtime(spec);
  EXPECT_EQ(runtime.ranges(2).solo_ns, 4'000'000u);
  const uint64_t begin_ns = MonotonicNs();
  ASSERT_TRUE(runtime.Run(2, 0, 4, {}).ok());
  EXPECT_GE(MonotonicNs() - begin_ns, 2'000'000u);
}

TEST(FakeRuntime, LeavesTheGateToTheExecutor) {
  const ModelSpec spec = test::ImageSpec();
  const std::unique_ptr<Region> region = Region::Create("fake-" + std::to_string(getpid()), 1, 1 << 20).value();
  FakeRuntime runtime(spec);
  Executor executor(region.get(), 0, spec, &runtime);
  EXPECT_EQ(executor.HoldOnDevice().code(), StatusCode::kUnavailable);
  executor.PublishRanges();
  EXPECT_EQ(LoadText(region->worker(0).device_name), "fake");
  Command command;
  command.kind = Command::kRun;
  command.flags = Command::kSynthetic;
  command.last = 8;
  command.gate = 1;
  ASSERT_TRUE(region->worker(0).commands.TryPush(command));
  EXPECT_TRUE(executor.DoWork());
  EXPECT_FALSE(executor.DoWork());
  Gate(&region->header().gate).Open(1);
  EXPECT_TRUE(executor.DoWork());
  EXPECT_EQ(region->worker(0).completions.size(), 1u);
}

TEST(FakeRuntime, FailsOnTheScriptedValue) {
  ModelSpec spec = test::TextSpec();
  spec.fake.fail_on_value = 13;
  FakeRuntime runtime(spec);
  std::array<int64_t, 4> in = {13, 0, 0, 0}, out = {};
  const std::array<const std::byte*, 1> inputs = {reinterpret_cast<const std::byte*>(in.data())};
  const std::array<std::byte*, 1> outputs = {reinterpret_cast<std::byte*>(out.data())};
  EXPECT_EQ(runtime.Run(0, 0, 8, {inputs, outputs}).code(), StatusCode::kWorkerFailed);
  in[0] = 12;
  EXPECT_TRUE(runtime.Run(0, 0, 8, {inputs, outputs}).ok());
}

}  // namespace
}  // namespace abacus
