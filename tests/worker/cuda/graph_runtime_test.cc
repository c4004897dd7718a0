// The CUDA runtime, through the factory as the worker uses it. Every test is skipped on a machine without a GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <thread>

#include "base/clock.h"
#include "models/tensor_layout.h"
#include "shm/gate.h"
#include "tests/worker/torch/several_queries.h"
#include "tests/worker/torch/test_models.h"
#include "worker/app/runtime_factory.h"

namespace abacus {
namespace {

using test::Job;
using ::testing::HasSubstr;

Result<std::unique_ptr<TorchRuntime>> Load(const ModelSpec& spec) {
  RuntimeOptions options;
  options.device = RuntimeOptions::Device::kCuda;
  options.gpu_timestamps = true;
  return LoadTorchRuntime(spec, options);
}

// Why a test cannot run on this machine; empty if it can. Only a machine without a GPU is a reason: where the driver is
// at work, a runtime that cannot use the GPU is a failure.
std::string WhyNoGpu(const Result<std::unique_ptr<TorchRuntime>>& loaded) {
  const bool unusable = !loaded && loaded.error().code() == StatusCode::kUnavailable;
  return unusable && !std::filesystem::exists("/dev/nvidiactl") ? loaded.error().message() : "";
}

class GraphRuntimeTest : public ::testing::TestWithParam<test::TestModel> {};

TEST_P(GraphRuntimeTest, EveryCutGivesTheUncutOutputs) {
  const test::TempDir dir;
  const ModelSpec spec = GetParam().make(dir);
  Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec);
  if (const std::string why = WhyNoGpu(loaded); !why.empty()) GTEST_SKIP() << why;
  ASSERT_TRUE(loaded.has_value()) << loaded.error().ToString();
  TorchRuntime& runtime = **loaded;
  for (uint32_t bucket = 0; bucket < spec.bucket_count(); ++bucket) {
    const std::vector<uint32_t>& cuts = runtime.ranges(bucket).cuts;
    Job job(spec, bucket, 1);
    Job other(spec, bucket, 2);
    ASSERT_TRUE(runtime.RunUncut(bucket, job.tensors()).ok());
    const auto expected = job.outputs();
    std::vector<std::vector<uint32_t>> chains = {{0, cuts.back()}, cuts};
    for (size_t i = 1; i + 1 < cuts.size(); ++i) {
      chains.push_back({0, cuts[i], cuts.back()});
      for (size_t j = i + 1; j + 1 < cuts.size(); ++j) chains.push_back({0, cuts[i], cuts[j], cuts.back()});
    }
    for (const std::vector<uint32_t>& chain : chains) {
      ASSERT_TRUE(runtime.RunUncut(bucket, other.tensors()).ok());
      job.ClearOutputs();
      for (size_t i = 0; i + 1 < chain.size(); ++i) {
        const Status status = runtime.Run(bucket, chain[i], chain[i + 1], job.tensors());
        ASSERT_TRUE(status.ok()) << status.ToString();
      }
      EXPECT_EQ(job.outputs(), expected);
    }
    EXPECT_EQ(runtime.Run(bucket, cuts[1], cuts.back(), job.tensors()).code(), StatusCode::kInternal);
  }
  EXPECT_FALSE(runtime.IsFatal());
}

INSTANTIATE_TEST_SUITE_P(Models, GraphRuntimeTest, ::testing::ValuesIn(test::StraightLineModels()),
                         [](const auto& param) { return std::string(param.param.name); });

class SeveralQueriesTest : public ::testing::Test {
 protected:
  std::unique_ptr<TorchRuntime> LoadOrSkip(const ModelSpec& spec) {
    Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec);
    if (loaded) return std::move(*loaded);
    why_no_gpu_ = WhyNoGpu(loaded);
    EXPECT_FALSE(why_no_gpu_.empty()) << loaded.error().ToString();
    return nullptr;
  }

  const test::TempDir dir_;
  std::string why_no_gpu_;
};

TEST_F(SeveralQueriesTest, GiveTheOutputsOfEachAlone) {
  const ModelSpec spec = test::MakeRowwise(dir_);
  const std::unique_ptr<TorchRuntime> runtime = LoadOrSkip(spec);
  if (runtime == nullptr) GTEST_SKIP() << why_no_gpu_;
  test::ExpectOutputsOfEachAlone(*runtime, spec);
}

TEST_F(SeveralQueriesTest, WhatNoQueryFillsIsPadding) {
  for (const int64_t width : {8, 16'000}) {  // added by the host, and on the device
    const ModelSpec spec = test::MakeWholeBatch(dir_, width);
    const std::unique_ptr<TorchRuntime> runtime = LoadOrSkip(spec);
    if (runtime == nullptr) GTEST_SKIP() << why_no_gpu_;
    test::ExpectNothingButPadding(*runtime, spec);
  }
}

TEST_F(SeveralQueriesTest, RandomJobsAnswerAsEachQueryAloneAndTouchNothingElse) {
  for (const bool shared : {false, true}) {
    const ModelSpec spec = test::MakeMixedRows(dir_, shared);
    for (const bool pinned : {false, true}) {
      const test::Arena arena(4 << 20);
      const std::unique_ptr<TorchRuntime> runtime = LoadOrSkip(spec);
      if (runtime == nullptr) GTEST_SKIP() << why_no_gpu_;
      if (pinned) {
        ASSERT_TRUE(runtime->PinArena(arena.bytes()).ok());
      }
      test::ExpectRandomJobsToAnswerAsEachAlone(*runtime, spec, arena.bytes());
    }
  }
}

// --- Ranges that wait at the gate ----------------------------------------------------------------------------------

// Memory that a runtime pins: one page for the gate, the rest for jobs.
class SharedMemory {
 public:
  explicit SharedMemory(size_t arena_bytes)
      : bytes_(kPageBytes + arena_bytes), base_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes_))) {
    new (base_) GateWord;
  }
  ~SharedMemory() { std::free(base_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  GateWord* gate() { return std::launder(reinterpret_cast<GateWord*>(base_)); }
  std::span<std::byte> arena() { return {base_ + kPageBytes, bytes_ - kPageBytes}; }

 private:
  static constexpr size_t kPageBytes = 4096;
  const size_t bytes_;
  std::byte* const base_;
};

// A job of one query whose tensors lie in the arena, with the inputs of `job`.
class ArenaJob {
 public:
  ArenaJob(const ModelSpec& spec, uint32_t bucket, const Job& job, std::byte* base)
      : layout_(LayoutOf(spec, spec.bucket(bucket))) {
    for (size_t i = 0; i < layout_.inputs.size(); ++i) {
      std::byte* const target = base + layout_.inputs[i].offset_bytes;
      std::memcpy(target, job.inputs()[i].data(), layout_.inputs[i].bytes);
      inputs_.push_back(target);
    }
    for (const TensorExtent& slot : layout_.outputs) {
      outputs_.push_back(base + slot.offset_bytes);
      std::memset(outputs_.back(), 0xA5, slot.bytes);
    }
    query_ = {job.query().rows, job.query().sequence, inputs_, outputs_};
  }
  ArenaJob(const ArenaJob&) = delete;
  ArenaJob& operator=(const ArenaJob&) = delete;
  JobTensors tensors() const { return {&query_, 1}; }
  std::vector<std::vector<std::byte>> outputs() const {
    std::vector<std::vector<std::byte>> copies;
    for (size_t i = 0; i < outputs_.size(); ++i)
      copies.emplace_back(outputs_[i], outputs_[i] + layout_.outputs[i].bytes);
    return copies;
  }

 private:
  const TensorLayout layout_;
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
  QueryTensors query_;
};

// Opens the gate when a test ends early: a GPU that waits there would keep the runtime from being destroyed.
struct OpenAtExit {
  GateWord* gate;
  ~OpenAtExit() { Gate(gate).OpenForGood(); }
};

class GateTest : public ::testing::Test {
 protected:
  using Make = ModelSpec(const test::TempDir& dir);
  static constexpr size_t kBlockBytes = 1 << 16;

  explicit GateTest(Make* make = test::StraightLineModels().front().make, size_t arena_bytes = 4 * kBlockBytes)
      : spec_(make(dir_)), memory_(arena_bytes) {}

  void SetUp() override {
    Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec_);
    if (const std::string why = WhyNoGpu(loaded); !why.empty()) GTEST_SKIP() << why;
    ASSERT_TRUE(loaded.has_value()) << loaded.error().ToString();
    runtime_ = std::move(*loaded);
    EXPECT_EQ(runtime_->UseGate(memory_.gate()).code(), StatusCode::kUnavailable) << "the arena is not pinned yet";
    ASSERT_TRUE(runtime_->PinArena(memory_.arena()).ok());
    Gate(memory_.gate()).Open(UINT32_MAX - 1);  // the values used wrap around
    const Status used = runtime_->UseGate(memory_.gate());
    ASSERT_TRUE(used.ok()) << used.ToString();
  }

  std::vector<std::vector<std::byte>> Expected(uint32_t bucket, uint64_t seed) {
    Job job(spec_, bucket, seed);
    EXPECT_TRUE(runtime_->RunUncut(bucket, job.tensors()).ok());
    return job.outputs();
  }
  ArenaJob MakeJob(uint32_t bucket, uint64_t seed, size_t block) {
    return ArenaJob(spec_, bucket, Job(spec_, bucket, seed), memory_.arena().data() + block * kBlockBytes);
  }
  // The next range in order; nothing when it has not ended after `timeout_ns`.
  std::optional<DeviceTimes> Await(uint64_t timeout_ns) {
    const uint64_t end_ns = MonotonicNs() + timeout_ns;
    while (MonotonicNs() < end_ns) {
      const Result<std::optional<DeviceTimes>> ended = runtime_->Poll();
      if (!ended) ADD_FAILURE() << ended.error().ToString();
      if (!ended || *ended) return ended ? *ended : std::nullopt;
    }
    return std::nullopt;
  }

  const test::TempDir dir_;
  const ModelSpec spec_;
  SharedMemory memory_;
  std::unique_ptr<TorchRuntime> runtime_;
  OpenAtExit open_at_exit_{memory_.gate()};
};

// Jobs of several queries with small and large rows.
class SeveralQueriesGateTest : public GateTest {
 protected:
  SeveralQueriesGateTest()
      : GateTest([](const test::TempDir& dir) { return test::MakeMixedRows(dir); }, 3 * kJobBytes) {}
  static constexpr size_t kJobBytes = 4 << 20;
};

// While one job runs or waits, the next is gathered; it must not touch what the first has yet to read or to hand out.
TEST_F(SeveralQueriesGateTest, StartedJobsOfOneBucketDoNotTouchEachOther) {
  Gate gate(memory_.gate());
  uint32_t value = 0;  // as values wrap around, this is behind those of SetUp
  uint64_t seed = 1;
  for (uint32_t bucket = 0; bucket < spec_.bucket_count(); ++bucket) {
    std::vector<std::unique_ptr<test::RandomJob>> jobs;
    for (size_t i = 0; i < 3; ++i) {
      jobs.push_back(
          std::make_unique<test::RandomJob>(spec_, bucket, memory_.arena().subspan(i * kJobBytes, kJobBytes), seed++));
      jobs.back()->RunEachAlone(*runtime_);
    }
    test::PoisonBucket(*runtime_, spec_, bucket);
    const auto start = [&](const test::RandomJob& job, uint32_t first, uint32_t last, uint32_t at) {
      const Status status = runtime_->Start({bucket, first, last, job.tensors(), at});
      ASSERT_TRUE(status.ok()) << status.ToString();
    };
    const std::vector<uint32_t>& cuts = runtime_->ranges(bucket).cuts;
    const uint32_t middle = cuts[cuts.size() / 2], last = cuts.back();
    // Two wait, in one range each; a third follows in two as soon as the first has ended.
    start(*jobs[0], 0, last, value + 1);
    start(*jobs[1], 0, last, value + 2);
    gate.Open(value + 1);
    ASSERT_TRUE(Await(5 * kNsPerSecond).has_value());
    jobs[0]->ExpectOnlyItsOutputs();
    start(*jobs[2], 0, middle, value + 3);
    gate.Open(value + 2);
    ASSERT_TRUE(Await(5 * kNsPerSecond).has_value());
    jobs[1]->ExpectOnlyItsOutputs();
    start(*jobs[2], middle, last, value + 4);
    gate.Open(value + 3);
    ASSERT_TRUE(Await(5 * kNsPerSecond).has_value());
    gate.Open(value + 4);
    ASSERT_TRUE(Await(5 * kNsPerSecond).has_value());
    value += 4;
    for (const auto& job : jobs) job->ExpectOnlyItsOutputs();
  }
}

TEST_F(GateTest, TwoJobsOfDifferentBucketsRunAsTheGateOpens) {
  const auto large = static_cast<uint32_t>(spec_.bucket_count() - 1);
  const uint32_t operators = runtime_->ranges(0).operators;
  const auto expected_first = Expected(0, 1), expected_second = Expected(large, 2);
  const ArenaJob first = MakeJob(0, 1, 0), second = MakeJob(large, 2, 1);
  Gate gate(memory_.gate());
  for (uint32_t round = 0; round < 3; ++round) {
    const uint32_t value = UINT32_MAX + 4 * round;  // MAX, 3, 7
    ASSERT_TRUE(runtime_->Start({0, 0, operators, first.tensors(), value}).ok());
    ASSERT_TRUE(runtime_->Start({large, 0, runtime_->ranges(large).operators, second.tensors(), value + 2}).ok());
    EXPECT_EQ(runtime_->Start({0, 0, operators, first.tensors(), 0}).code(), StatusCode::kInternal) << "one too many";
    EXPECT_FALSE(Await(20 * kNsPerMs)) << "the gate is closed";
    EXPECT_TRUE(round > 0 || first.outputs() != expected_first);

    gate.Open(value);
    const std::optional<DeviceTimes> first_times = Await(5 * kNsPerSecond);
    ASSERT_TRUE(first_times.has_value());
    EXPECT_EQ(first.outputs(), expected_first);
    EXPECT_FALSE(Await(20 * kNsPerMs)) << "the gate is not that far open";
    EXPECT_TRUE(round > 0 || second.outputs() != expected_second);

    gate.Open(value + 2);
    const std::optional<DeviceTimes> second_times = Await(5 * kNsPerSecond);
    ASSERT_TRUE(second_times.has_value());
    EXPECT_EQ(second.outputs(), expected_second);

    EXPECT_GT(first_times->started_ns, 0u);
    EXPECT_GE(first_times->ended_ns, first_times->started_ns);
    EXPECT_GE(second_times->started_ns, first_times->ended_ns + 10 * kNsPerMs) << "it was held back for 20 ms";
    EXPECT_GE(second_times->ended_ns, second_times->started_ns);
  }
}

TEST_F(GateTest, RangesOfOneJobFollowEachOther) {
  const std::vector<uint32_t>& cuts = runtime_->ranges(1).cuts;
  const auto expected = Expected(1, 5);
  const ArenaJob job = MakeJob(1, 5, 0);
  Gate gate(memory_.gate());
  uint32_t value = 0;
  size_t ended = 0;
  DeviceTimes before;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    ASSERT_TRUE(runtime_->Start({1, cuts[i], cuts[i + 1], job.tensors(), ++value}).ok());
    if (i == 0) continue;
    gate.Open(value - 1);
    const std::optional<DeviceTimes> times = Await(5 * kNsPerSecond);
    ASSERT_TRUE(times.has_value());
    EXPECT_GE(times->started_ns, before.ended_ns);
    before = *times;
    ++ended;
  }
  gate.Open(value);
  ASSERT_TRUE(Await(5 * kNsPerSecond).has_value());
  EXPECT_EQ(ended + 2, cuts.size());
  EXPECT_EQ(job.outputs(), expected);
}

TEST_F(GateTest, NamesTheGpuAndItsLibraries) {
  EXPECT_THAT(runtime_->device_name(), HasSubstr("NVIDIA"));
  EXPECT_THAT(runtime_->libraries(), ::testing::ContainsRegex("LibTorch 2.*, CUDA [0-9]+\\.[0-9]+, cuDNN [0-9.]+"));
}

TEST(GraphRuntimeGateTest, ThereMustBeAGateToWaitFor) {
  const test::TempDir dir;
  const ModelSpec spec = test::StraightLineModels().front().make(dir);
  const Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec);
  if (const std::string why = WhyNoGpu(loaded); !why.empty()) GTEST_SKIP() << why;
  ASSERT_TRUE(loaded.has_value()) << loaded.error().ToString();
  EXPECT_EQ((*loaded)->Start({0, 0, (*loaded)->ranges(0).operators, {}, 1}).code(), StatusCode::kInternal);
  EXPECT_FALSE((*loaded)->IsFatal());
}

TEST(GraphRuntimeLoadTest, RefusesAModelThatReadsValuesBack) {
  const test::TempDir dir;
  ModelSpec spec = test::SaveModel(dir, "branch", R"(
def forward(self, x):
    if bool(torch.sum(x) > 0):
        x = torch.tanh(x)
    return x * 2.0
)");
  spec.inputs = spec.outputs = {test::FloatTensor("x", {kBatchDim, 6})};
  spec.batchable = false;  // the branch asks for all rows
  const Result<std::unique_ptr<TorchRuntime>> loaded = Load(spec);
  ASSERT_FALSE(loaded.has_value());
  if (const std::string why = WhyNoGpu(loaded); !why.empty()) GTEST_SKIP() << why;
  EXPECT_EQ(loaded.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(loaded.error().message(),
              ::testing::AllOf(HasSubstr("cannot capture the model in a CUDA graph"), HasSubstr("torch.sum(x)"),
                               HasSubstr("serve the model on the CPU")));
}

TEST(GraphRuntimeLoadTest, MeasuresWhatIsNotKnownWhenItIsItsTurn) {
  const test::TempDir dir;
  const ModelSpec spec = test::StraightLineModels().front().make(dir);
  const auto load = [&spec](const LoadHooks& hooks) {
    RuntimeOptions options;
    options.device = RuntimeOptions::Device::kCuda;
    options.hooks = hooks;
    return LoadTorchRuntime(spec, options);
  };
  int turns = 0;
  LoadHooks hooks;
  hooks.await_turn = [&turns] { ++turns; };
  const auto measured = load(hooks);
  if (const std::string why = WhyNoGpu(measured); !why.empty()) GTEST_SKIP() << why;
  ASSERT_TRUE(measured.has_value()) << measured.error().ToString();
  EXPECT_EQ(turns, 1);
  for (uint32_t b = 0; b < spec.bucket_count(); ++b) hooks.known.push_back((*measured)->ranges(b));
  const auto known = load(hooks);
  ASSERT_TRUE(known.has_value()) << known.error().ToString();
  EXPECT_EQ(turns, 1);
  EXPECT_EQ((*known)->ranges(0).cuts, (*measured)->ranges(0).cuts);
  EXPECT_EQ((*known)->ranges(0).solo_ns, (*measured)->ranges(0).solo_ns);
  hooks.known.clear();
  hooks.measure = false;
  const auto whole = load(hooks);
  ASSERT_TRUE(whole.has_value()) << whole.error().ToString();
  EXPECT_EQ(turns, 1);
  EXPECT_EQ((*whole)->ranges(0).cuts, (std::vector<uint32_t>{0, (*measured)->ranges(0).operators}));
  EXPECT_EQ((*whole)->structure(), (*measured)->structure());
}

// What the factory says when it is asked for a GPU; nothing when it gives a runtime.
Status LoadOn(const std::string& gpu) {
  const test::TempDir dir;
  RuntimeOptions options;
  options.device = RuntimeOptions::Device::kCuda;
  options.gpu = gpu;
  const auto loaded = LoadTorchRuntime(test::StraightLineModels().front().make(dir), options);
  return loaded ? Status::Ok() : loaded.error();
}

TEST(GraphRuntimeLoadTest, NamesAGpuThatDoesNotExist) {
  EXPECT_EQ(LoadOn("99").code(), StatusCode::kUnavailable);
  const Status status = LoadOn("GPU-00000000-0000-0000-0000-000000000000");
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  if (!std::filesystem::exists("/dev/nvidiactl")) GTEST_SKIP() << status.message();
  EXPECT_THAT(LoadOn("99").message(), HasSubstr("GPU 99 does not exist"));
  EXPECT_THAT(status.message(), HasSubstr("GPU-00000000-0000-0000-0000-000000000000 is not visible to this process"));
  EXPECT_THAT(LoadOn("first").message(), HasSubstr("neither an index nor a UUID"));
}

TEST(GraphRuntimeLoadTest, FindsAGpuByItsUuid) {
  FILE* const smi = popen("nvidia-smi --query-gpu=uuid --format=csv,noheader 2>/dev/null", "r");
  ASSERT_NE(smi, nullptr);
  char line[128] = "";
  const bool found = std::fgets(line, sizeof(line), smi) != nullptr;
  pclose(smi);
  std::string uuid = line;
  while (!uuid.empty() && uuid.back() == '\n') uuid.pop_back();
  if (!found || !uuid.starts_with("GPU-")) GTEST_SKIP() << "nvidia-smi names no GPU";
  const Status status = LoadOn(uuid);
  EXPECT_TRUE(status.ok()) << status.ToString();
}

}  // namespace
}  // namespace abacus
