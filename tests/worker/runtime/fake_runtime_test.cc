#include "worker/runtime/fake_runtime.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "tests/support/specs.h"
#include "worker/serve/executor.h"

namespace abacus {
namespace {

// The tensors of a query, as a runtime sees them: one input and one output.
class OneOfEach {
 public:
  template <class T>
  OneOfEach(const std::vector<T>& input, std::vector<T>* output)
      : input_(reinterpret_cast<const std::byte*>(input.data())),
        output_(reinterpret_cast<std::byte*>(output->data())) {}
  QueryTensors At(uint32_t rows, uint32_t sequence) const { return {rows, sequence, {&input_, 1}, {&output_, 1}}; }

 private:
  const std::byte* input_;
  std::byte* output_;
};

TEST(FakeRuntime, CutsEveryOperatorUpToTheLimit) {
  const ModelSpec small = test::ImageSpec(8);
  EXPECT_EQ(FakeRuntime(small).ranges(0).cuts.size(), 9u);
  const ModelSpec large = test::ImageSpec(1000);
  const FakeRuntime runtime(large);
  EXPECT_EQ(runtime.ranges(0).cuts.size(), kMaxCuts + 1);
  EXPECT_EQ(runtime.ranges(0).cuts.back(), 1000u);
}

TEST(FakeRuntime, HasTheStructureOfItsTimes) {
  ModelSpec spec = test::ImageSpec();
  const std::string structure = FakeRuntime(spec).structure();
  EXPECT_EQ(structure.size(), 64u);
  spec.name = "another";
  EXPECT_EQ(FakeRuntime(spec).structure(), structure);
  spec.fake.base_us += 1;
  EXPECT_NE(FakeRuntime(spec).structure(), structure);
}

TEST(FakeRuntime, EchoesTheInputWhenTheJobEnds) {
  const ModelSpec spec = test::ImageSpec();
  FakeRuntime runtime(spec);
  const std::vector<float> in = {1, 2, 3, 4};
  std::vector<float> out(4);
  const OneOfEach buffers(in, &out);
  const std::array<QueryTensors, 1> query = {buffers.At(1, 0)};
  ASSERT_TRUE(runtime.Run(0, 0, 3, query).ok());
  EXPECT_EQ(out[0], 0) << "not before the last range";
  ASSERT_TRUE(runtime.Run(0, 3, 8, query).ok());
  EXPECT_EQ(out, in);
}

TEST(FakeRuntime, EchoesEachQueryAtItsOwnShape) {
  const ModelSpec spec = test::TextSpec();
  FakeRuntime runtime(spec);
  const std::vector<int64_t> first_in = {1, 2, 3}, second_in = {4, 5, 6, 7, 8};
  std::vector<int64_t> first_out(4, -1), second_out(6, -1);
  const OneOfEach first(first_in, &first_out), second(second_in, &second_out);
  const std::array<QueryTensors, 2> job = {first.At(1, 3), second.At(1, 5)};
  ASSERT_TRUE(runtime.Run(3, 0, 8, job).ok());
  EXPECT_EQ(first_out, (std::vector<int64_t>{1, 2, 3, -1}));
  EXPECT_EQ(second_out, (std::vector<int64_t>{4, 5, 6, 7, 8, -1}));
}

TEST(FakeRuntime, CutsAndFillsOutputsOfOtherSizes) {
  ModelSpec spec = test::ImageSpec();
  const std::vector<float> in = {1, 2, 3, 4};
  for (const int64_t width : {2, 6}) {
    spec.outputs[0].dims = Shape{kBatchDim, width};
    FakeRuntime runtime(spec);
    std::vector<float> out(7, -1);
    const OneOfEach buffers(in, &out);
    const std::array<QueryTensors, 1> query = {buffers.At(1, 0)};
    ASSERT_TRUE(runtime.Run(0, 0, 8, query).ok());
    EXPECT_EQ(out,
              width == 2 ? (std::vector<float>{1, 2, -1, -1, -1, -1, -1}) : (std::vector<float>{1, 2, 3, 4, 0, 0, -1}));
  }
}

TEST(FakeRuntime, PartsOfAQueryGiveItsRows) {
  ModelSpec spec = test::ImageSpec();
  for (const int64_t width : {2, 4, 6}) {
    spec.outputs[0].dims = Shape{kBatchDim, width};
    FakeRuntime runtime(spec);
    std::vector<float> in(12);  // three rows
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i + 1);
    const auto row_of_output = static_cast<size_t>(width);
    std::vector<float> whole(3 * row_of_output, -1), parts(3 * row_of_output, -1);
    const OneOfEach buffers(in, &whole);
    const std::array<QueryTensors, 1> query = {buffers.At(3, 0)};
    ASSERT_TRUE(runtime.Run(2, 0, 8, query).ok());
    EXPECT_EQ(whole[row_of_output], 5) << "the second row's first element";

    for (const auto& [first, rows] : {std::pair{1u, 2u}, {0u, 1u}}) {
      const std::byte* const input = reinterpret_cast<const std::byte*>(&in[4 * first]);
      std::byte* const output = reinterpret_cast<std::byte*>(&parts[row_of_output * first]);
      const std::array<QueryTensors, 1> part = {QueryTensors{rows, 0, {&input, 1}, {&output, 1}}};
      ASSERT_TRUE(runtime.Run(2, 0, 8, part).ok());
    }
    EXPECT_EQ(parts, whole) << "width " << width;
  }
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
  const std::unique_ptr<Region> region =
      Region::Create("fake-" + std::to_string(getpid()), {.services = 1}, 1 << 20).value();
  WorkerSlot& slot = region->worker(WorkerId(0));
  FakeRuntime runtime(spec);
  Executor executor(region.get(), WorkerId(0), spec, &runtime);
  EXPECT_EQ(executor.HoldOnDevice().code(), StatusCode::kUnavailable);
  executor.PublishRanges();
  EXPECT_EQ(LoadText(slot.device_name), "fake");
  Command command;
  command.kind = Command::kRun;
  command.flags = Command::kSynthetic;
  command.last = 8;
  command.gate = 1;
  ASSERT_TRUE(slot.commands.TryPush(command));
  EXPECT_TRUE(executor.DoWork());
  EXPECT_FALSE(executor.DoWork());
  Gate(&region->lane(LaneId(0)).gate).Open(1);
  EXPECT_TRUE(executor.DoWork());
  EXPECT_EQ(slot.completions.size(), 1u);
}

TEST(FakeRuntime, FailsOnTheScriptedValue) {
  ModelSpec spec = test::TextSpec();
  spec.fake.fail_on_value = 13;
  FakeRuntime runtime(spec);
  std::vector<int64_t> in = {13, 0, 0, 0}, out(4);
  const OneOfEach buffers(in, &out);
  const std::array<QueryTensors, 1> query = {buffers.At(1, 4)};
  EXPECT_EQ(runtime.Run(0, 0, 8, query).code(), StatusCode::kWorkerFailed);
  in[0] = 12;
  EXPECT_TRUE(runtime.Run(0, 0, 8, query).ok());
}

TEST(FakeRuntime, AnyQueryOfAJobMayFailIt) {
  ModelSpec spec = test::TextSpec();
  spec.fake.fail_on_value = 13;
  FakeRuntime runtime(spec);
  const std::vector<int64_t> good_in = {0, 13}, bad_in = {13, 0};
  std::vector<int64_t> good_out(2), bad_out(2);
  const OneOfEach good(good_in, &good_out), bad(bad_in, &bad_out);
  const std::array<QueryTensors, 2> job = {good.At(1, 2), bad.At(1, 2)};
  EXPECT_EQ(runtime.Run(3, 0, 8, job).code(), StatusCode::kWorkerFailed);
  EXPECT_TRUE(runtime.Run(3, 0, 8, std::span(job).first(1)).ok());
  EXPECT_TRUE(runtime.Run(3, 0, 8, {}).ok()) << "a synthetic job has no input to look at";
}

}  // namespace
}  // namespace abacus
