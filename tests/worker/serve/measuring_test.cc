#include "worker/serve/measuring.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "shm/doorbell.h"
#include "shm/region.h"
#include "tests/support/specs.h"
#include "tests/worker/serve/scripted_runtimes.h"

namespace abacus {
namespace {

// --- Turns ----------------------------------------------------------------------------------------------------------

class AwaitTurnTest : public testing::Test {
 protected:
  void Send(Command::Kind kind) {
    Command command;
    command.kind = kind;
    ASSERT_TRUE(slot_->commands.TryPush(command));
    Doorbell(&slot_->command_bell).Ring();
  }
  WorkerState state() const { return static_cast<WorkerState>(slot_->state.load()); }

  const std::unique_ptr<WorkerSlot> slot_ = std::make_unique<WorkerSlot>();
  std::atomic<bool> stop_{false};
};

TEST_F(AwaitTurnTest, WaitsUntilItIsTold) {
  std::atomic<bool> done{false};
  std::jthread worker([&] {
    EXPECT_TRUE(AwaitTurn(slot_.get(), stop_));
    done.store(true);
  });
  while (state() != WorkerState::kAwaitsTurn) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(done.load());
  Send(Command::kMeasure);
  worker.join();
  EXPECT_EQ(state(), WorkerState::kMeasuring);
  EXPECT_TRUE(slot_->commands.empty());
  EXPECT_GT(slot_->heartbeat_ns.load(), 0u);
}

TEST_F(AwaitTurnTest, EndsWithAStopOrWithTheController) {
  Send(Command::kStop);
  EXPECT_FALSE(AwaitTurn(slot_.get(), stop_));
  stop_.store(true);
  EXPECT_FALSE(AwaitTurn(slot_.get(), stop_));
}

TEST_F(AwaitTurnTest, NothingElseIsATurn) {
  Send(Command::kRun);
  Send(Command::kStop);
  EXPECT_FALSE(AwaitTurn(slot_.get(), stop_));
}

// --- What an earlier process measured -------------------------------------------------------------------------------

class EarlierMeasurementTest : public testing::Test {
 protected:
  EarlierMeasurementTest() {
    for (size_t b = 0; b < spec_.bucket_count(); ++b) {
      RangeTableEntry& entry = slot_->ranges[b];
      entry.operators = 10;
      entry.cut_count = 3;
      entry.cuts = {0, 4, 10};
      entry.solo_ns = 1000 + b;
    }
    StoreText(slot_->measured_digest, "abc");
    StoreText(slot_->device_name, "scripted device");
    StoreText(slot_->libraries, "none");
  }

  const ModelSpec spec_ = test::ImageSpec();
  const std::unique_ptr<WorkerSlot> slot_ = std::make_unique<WorkerSlot>();
  const test::ScriptedRuntime runtime_;
};

TEST_F(EarlierMeasurementTest, HoldsForTheSameModelOnTheSameDevice) {
  const EarlierMeasurement earlier = ReadEarlierMeasurement(*slot_, spec_, "abc");
  ASSERT_EQ(earlier.ranges.size(), 3u);
  EXPECT_EQ(earlier.ranges[2].operators, 10u);
  EXPECT_EQ(earlier.ranges[2].cuts, (std::vector<uint32_t>{0, 4, 10}));
  EXPECT_EQ(earlier.ranges[2].solo_ns, 1002u);
  EXPECT_TRUE(earlier.HoldsFor(runtime_));
}

TEST_F(EarlierMeasurementTest, AnotherModelOrNoneTakesNothingOver) {
  EXPECT_TRUE(ReadEarlierMeasurement(*slot_, spec_, "abd").ranges.empty());
  EXPECT_TRUE(ReadEarlierMeasurement(*slot_, spec_, "").ranges.empty());
  StoreText(slot_->measured_digest, "");
  EXPECT_TRUE(ReadEarlierMeasurement(*slot_, spec_, "").ranges.empty()) << "unknown is not the same as unknown";
  EXPECT_TRUE(ReadEarlierMeasurement(*slot_, spec_, "abd").HoldsFor(runtime_)) << "nothing was taken over";
}

TEST_F(EarlierMeasurementTest, ADamagedTableIsNotUsed) {
  slot_->ranges[1].cut_count = 60'000;
  EXPECT_TRUE(ReadEarlierMeasurement(*slot_, spec_, "abc").ranges.empty());
}

TEST_F(EarlierMeasurementTest, HoldsForNoOtherDeviceOrLibraries) {
  StoreText(slot_->device_name, "another device");
  EXPECT_FALSE(ReadEarlierMeasurement(*slot_, spec_, "abc").HoldsFor(runtime_));
  StoreText(slot_->device_name, "scripted device");
  StoreText(slot_->libraries, "others");
  EXPECT_FALSE(ReadEarlierMeasurement(*slot_, spec_, "abc").HoldsFor(runtime_));
}

}  // namespace
}  // namespace abacus
