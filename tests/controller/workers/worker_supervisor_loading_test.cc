// How workers come up: models that are refused, the files that they are handed, turns for measuring, and time limits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/controller/workers/worker_supervisor_fixture.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using test::WorkerSupervisorTest;
using testing::HasSubstr;

// --- Models that are refused ---------------------------------------------------------------------------------------

TEST_F(WorkerSupervisorTest, AModelThatIsRefusedIsNotTriedAgain) {
  Start();
  for (const StatusCode code : {StatusCode::kInvalidArgument, StatusCode::kNotFound}) {
    const WorkerId id = code == StatusCode::kNotFound ? kTextSlot : kImageSlot;
    const WorkerEvent down = FailWith(id, code, "m.pt: is not TorchScript");
    EXPECT_THAT(down.message, HasSubstr("m.pt: is not TorchScript"));
    supervisor_->SlotReleased(down.worker);
    const WorkerEvent gave_up = Next();
    EXPECT_EQ(gave_up.kind, WorkerEvent::kGaveUp);
    EXPECT_THAT(gave_up.message, HasSubstr(" is down; once its model is mended (exported again), restart the "
                                           "controller: m.pt: is not TorchScript"));
    const WorkerSlot& slot = region_->worker(id);
    EXPECT_EQ(slot.state.load(), static_cast<uint32_t>(WorkerState::kFailed));
    EXPECT_EQ(slot.error_code.load(), static_cast<uint32_t>(code));
    EXPECT_EQ(LoadText(slot.error), gave_up.message);
    EXPECT_EQ(slot.generation.load(), 1u);
  }
  EXPECT_EQ(region_->service(ServiceId(0)).stats.restarts.load(), 0u);
}

TEST_F(WorkerSupervisorTest, OneThatCannotLoadForAnotherReasonIsTriedAgain) {
  Start();
  for (const StatusCode code : {StatusCode::kUnavailable, StatusCode::kWorkerFailed, StatusCode::kInternal}) {
    const WorkerEvent down = FailWith(kImageSlot, code, "out of memory");
    supervisor_->SlotReleased(down.worker);
    ASSERT_TRUE(PollUntil([&] { return PidOf(kImageSlot) > 0; }));
    EXPECT_EQ(region_->worker(kImageSlot).error_code.load(), 0u) << "another process, another story";
  }
}

TEST_F(WorkerSupervisorTest, OneThatHasServedIsTriedAgainWhateverItSays) {
  Start();
  Load(kImageSlot);
  const WorkerEvent down = FailWith(kImageSlot, StatusCode::kInvalidArgument, "a device-side assert");
  supervisor_->SlotReleased(down.worker);
  EXPECT_TRUE(PollUntil([&] { return PidOf(kImageSlot) > 0; }));
}

TEST_F(WorkerSupervisorTest, AServiceWithoutAModelIsDownAndTheOthersAreStarted) {
  Service refused = *services_[0];
  refused.refusal = Status(StatusCode::kNotFound, "/models/image.pt: the model file cannot be opened");
  services_[0] = std::make_shared<const Service>(refused);
  Start();
  const WorkerEvent gave_up = Next();
  EXPECT_EQ(gave_up.kind, WorkerEvent::kGaveUp);
  EXPECT_EQ(gave_up.worker.id, kImageSlot);
  EXPECT_THAT(gave_up.message, HasSubstr("/models/image.pt: the model file cannot be opened"));
  EXPECT_EQ(PidOf(kImageSlot), 0);
  Load(kTextSlot);
  supervisor_->Publish(Services());
  PollFor(50 * kNsPerMs);
  EXPECT_TRUE(NoNews());
  EXPECT_EQ(PidOf(kImageSlot), 0) << "a new set of services brings no new model";
}

// --- Model identity -------------------------------------------------------------------------------------------------

TEST_F(WorkerSupervisorTest, EveryProcessOfAServiceGetsTheModelThatIsHeld) {
  std::ofstream(dir_ / "m.pt") << "weights";
  Service holding = *services_[0];
  holding.config.spec.text = "the description\n";
  holding.config.spec.toml_path = dir_ / "m.toml";
  holding.config.spec.file = dir_ / "m.pt";
  holding.held = HeldModel::Open(holding.config.spec, /*need_file=*/true).value();
  services_[0] = std::make_shared<const Service>(holding);
  // The other service has no model, so nothing is handed to its worker.
  Program("case \"$*\" in *--digest*) { cat /proc/self/fd/10; cat /proc/self/fd/11; echo; } >> " +
          (dir_ / "got").string() + " ;; esac\nexec sleep 600");
  const auto got = [&] {
    std::stringstream text;
    text << std::ifstream(dir_ / "got").rdbuf();
    return text.str();
  };
  Start();
  ASSERT_TRUE(PollUntil([&] { return std::ranges::count(Started(), '\n') == 2 && got().ends_with("weights\n"); }));
  EXPECT_THAT(Started(), HasSubstr("--worker 3 --model " + (dir_ / "m.toml").string() + " "));
  EXPECT_THAT(Started(), HasSubstr(" --digest " + holding.held->digest() + " "));
  fs::rename(dir_ / "m.pt", dir_ / "old.pt");
  std::ofstream(dir_ / "m.pt") << "other weights";
  fs::remove(dir_ / "got");
  supervisor_->SlotReleased(EndOf(kImageSlot).worker);
  ASSERT_TRUE(PollUntil([&] { return got().ends_with("weights\n"); }));
  EXPECT_EQ(got(), "the description\nweights\n");
}

// --- Turns for measuring --------------------------------------------------------------------------------------------

TEST_F(WorkerSupervisorTest, WorkersOfOneProcessorMeasureOneAfterTheOther) {
  settings_.device = DeviceKind::kCpu;
  Start();
  AwaitTurn(kImageSlot);
  PollFor(50 * kNsPerMs);
  EXPECT_FALSE(HasTurn(kImageSlot)) << "the other one loads";
  AwaitTurn(kTextSlot);
  ASSERT_TRUE(PollUntil([&] { return HasTurn(kImageSlot); }));
  EXPECT_NE(region_->worker(kImageSlot).command_bell.value.load(), 0u) << "rung";
  region_->worker(kImageSlot).state.store(static_cast<uint32_t>(WorkerState::kMeasuring));
  PollFor(50 * kNsPerMs);
  EXPECT_FALSE(HasTurn(kTextSlot)) << "the first one measures";
  Load(kImageSlot);
  EXPECT_TRUE(PollUntil([&] { return HasTurn(kTextSlot); }));
  Load(kTextSlot);
}

TEST_F(WorkerSupervisorTest, WorkersOfDifferentGpusDoNotWaitForEachOther) {
  Start();
  AwaitTurn(kImageSlot);
  EXPECT_TRUE(PollUntil([&] { return HasTurn(kImageSlot); }));
  AwaitTurn(kTextSlot);
  EXPECT_TRUE(PollUntil([&] { return HasTurn(kTextSlot); }));
}

TEST_F(WorkerSupervisorTest, OneThatWaitsForItsTurnIsNotLateAndOneThatMeasuresIs) {
  settings_.device = DeviceKind::kCpu;
  settings_.worker.load_timeout_ns = 150 * kNsPerMs;
  Start();
  AwaitTurn(kImageSlot);
  AwaitTurn(kTextSlot);
  ASSERT_TRUE(PollUntil([&] { return HasTurn(kTextSlot); })) << "the lower slot is looked at first";
  region_->worker(kTextSlot).state.store(static_cast<uint32_t>(WorkerState::kMeasuring));
  const WorkerEvent down = Next();
  EXPECT_EQ(down.worker.id, kTextSlot);
  EXPECT_THAT(down.message, HasSubstr("did not load its model within load_timeout_s"));
  EXPECT_GT(PidOf(kImageSlot), 0);
  EXPECT_TRUE(PollUntil([&] { return HasTurn(kImageSlot); })) << "a turn ends with its process";
  EXPECT_THAT(Next().message, HasSubstr("did not load its model within load_timeout_s"))
      << "its own time began with its turn";
}

TEST_F(WorkerSupervisorTest, OneThatDoesNotLoadInTimeIsEnded) {
  settings_.worker.load_timeout_ns = 20 * kNsPerMs;
  Start();
  EXPECT_THAT(Next().message, HasSubstr("did not load its model within load_timeout_s and was ended"));
}

}  // namespace
}  // namespace abacus
