#include "controller/workers/worker_supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "tests/controller/workers/worker_supervisor_fixture.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using test::WorkerSupervisorTest;
using testing::ContainsRegex;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(WorkerSupervisorTest, WritesDownWhoRunsWhatBeforeItSpawns) {
  Start();
  const WorkerSlot& slot = region_->worker(kTextSlot);
  EXPECT_EQ(slot.service, 1u);
  EXPECT_EQ(slot.lane, 1u);
  EXPECT_EQ(slot.generation.load(), 1u);
  EXPECT_EQ(slot.bucket_count, 4u);
  EXPECT_EQ(slot.state.load(), static_cast<uint32_t>(WorkerState::kStarting));
  EXPECT_GT(slot.pid.load(), 0);
  EXPECT_EQ(LoadText(region_->service(ServiceId(0)).name), "image");
  EXPECT_EQ(region_->service(ServiceId(0)).worker.load(), kImageSlot.value());
  EXPECT_EQ(LoadText(region_->service(ServiceId(1)).name), "text");
  EXPECT_EQ(region_->service(ServiceId(1)).worker.load(), kTextSlot.value());
  EXPECT_EQ(LoadText(region_->lane(LaneId(1)).gpu), "GPU-abc");
  EXPECT_EQ(region_->worker(WorkerId(0)).pid.load(), 0) << "a slot that no service has";
}

TEST_F(WorkerSupervisorTest, TellsWorkersSlotModelAndGpu) {
  daemons_[0].has_one_gpu = false;
  daemons_[0].environment = {"CUDA_MPS_PIPE_DIRECTORY=/lane0/pipe"};
  daemons_[1].environment = {"CUDA_MPS_PIPE_DIRECTORY=/lane1/pipe"};
  settings_.worker.gpu_timestamps = true;
  Start();
  ASSERT_TRUE(PollUntil([&] { return std::ranges::count(Started(), '\n') == 2; })) << Started();
  const std::string same = "--cpu-threads 1 --spin-us 7 --gate device --log-level warn --gpu-timestamps pipe=";
  const std::string begin = (dir_ / "abacus-worker").string() + " serve --segment segment --worker ";
  EXPECT_THAT(Started(), HasSubstr(begin + "3 --model  --device cuda --gpu 4 " + same + "/lane0/pipe\n"));
  EXPECT_THAT(Started(), HasSubstr(begin + "1 --model  --device cuda --gpu 0 " + same + "/lane1/pipe\n"))
      << "the daemon shows its only GPU as the first";
}

TEST_F(WorkerSupervisorTest, OnlyCudaAsksForMps) {
  settings_.device = DeviceKind::kFake;
  daemons_[0].error = daemons_[1].error = "nobody runs it";
  Start();
  Load(kImageSlot);
  Load(kTextSlot);
  ASSERT_TRUE(PollUntil([&] { return std::ranges::count(Started(), '\n') == 2; })) << Started();
  EXPECT_THAT(Started(), HasSubstr("abacus-fake-worker serve --segment segment --worker 1 --model  --device fake --gpu "
                                   "GPU-abc "));
  EXPECT_THAT(daemons_[0].asked, IsEmpty());
  supervisor_->StopAll(0);
  EXPECT_THAT(daemons_[0].asked, IsEmpty());
}

TEST_F(WorkerSupervisorTest, MpsCanBeSwitchedOff) {
  settings_.worker.mps = false;
  daemons_[1].is_client = false;
  Start();
  Load(kTextSlot);
  EXPECT_THAT(daemons_[1].asked, IsEmpty());
}

TEST_F(WorkerSupervisorTest, OneThatHasLoadedIsUpOnceTheDaemonOfItsLaneListsIt) {
  Start();
  const pid_t pid = PidOf(kTextSlot);
  PollFor(50 * kNsPerMs);
  EXPECT_TRUE(NoNews());
  EXPECT_THAT(daemons_[1].asked, IsEmpty()) << "not before it has used the GPU";
  Load(kTextSlot);
  EXPECT_EQ(news_.events[0].worker, (WorkerRef{kTextSlot, 1}));
  EXPECT_THAT(daemons_[1].asked, ElementsAre("client? " + std::to_string(pid)));
  EXPECT_THAT(daemons_[0].asked, IsEmpty());
}

TEST_F(WorkerSupervisorTest, OneThatIsNoClientNeverServesAndIsEnded) {
  daemons_[1].is_client = false;
  Start();
  const pid_t pid = PidOf(kTextSlot);
  region_->worker(kTextSlot).state.store(static_cast<uint32_t>(WorkerState::kLoaded));
  const WorkerEvent down = Next();
  EXPECT_EQ(down.kind, WorkerEvent::kDown) << "never up";
  EXPECT_THAT(down.message, HasSubstr("the worker of text (pid " + std::to_string(pid) +
                                      ") runs without CUDA MPS: the MPS daemon does not list it as a client and was "
                                      "ended"));
  EXPECT_FALSE(ProcessStartTicks(pid).has_value());
  EXPECT_THAT(daemons_[1].asked,
              ElementsAre("client? " + std::to_string(pid), "terminate " + std::to_string(pid) + " alive"));
}

TEST_F(WorkerSupervisorTest, OneThatCannotBeCheckedIsEndedWithTheReason) {
  daemons_[1].error = "the daemon is gone";
  Start();
  const pid_t pid = PidOf(kTextSlot);
  region_->worker(kTextSlot).state.store(static_cast<uint32_t>(WorkerState::kLoaded));
  const WorkerEvent down = Next();
  EXPECT_EQ(down.kind, WorkerEvent::kDown);
  EXPECT_THAT(down.message, HasSubstr("cannot be checked for CUDA MPS: the daemon is gone (set [worker] mps = false to "
                                      "serve without MPS)"));
  EXPECT_FALSE(ProcessStartTicks(pid).has_value()) << "a daemon that does not terminate it saves nobody";
}

TEST_F(WorkerSupervisorTest, TerminatesAtTheDaemonBeforeItKills) {
  Start();
  Load(kImageSlot);
  const pid_t pid = PidOf(kImageSlot);
  daemons_[0].asked.clear();
  supervisor_->Condemn({kImageSlot, 1}, "answered a command that was not given");
  supervisor_->Condemn({kImageSlot, 1}, "again");
  const WorkerEvent down = Next();
  EXPECT_THAT(down.message, HasSubstr("answered a command that was not given and was ended"));
  EXPECT_THAT(daemons_[0].asked, ElementsAre("terminate " + std::to_string(pid) + " alive"));
  EXPECT_THAT(daemons_[1].asked, IsEmpty()) << "the other lane's";
}

TEST_F(WorkerSupervisorTest, SaysHowOneEnded) {
  Program("exit 3");
  Start();
  const WorkerEvent first = Next(), second = Next();
  for (const WorkerEvent& down : {first, second}) EXPECT_THAT(down.message, HasSubstr("exited with code 3"));
  EXPECT_EQ(PidOf(kImageSlot), 0);
}

TEST_F(WorkerSupervisorTest, AFailedOneSaysWhy) {
  Start();
  WorkerSlot& slot = region_->worker(kImageSlot);
  StoreText(slot.error, "no such model");
  slot.state.store(static_cast<uint32_t>(WorkerState::kFailed));
  EXPECT_THAT(EndOf(kImageSlot).message, ContainsRegex("was killed by signal 9 \\(Killed\\): no such model"));
}

TEST_F(WorkerSupervisorTest, ANewOneWaitsUntilTheSlotIsReleased) {
  Start();
  Load(kImageSlot);
  const WorkerEvent down = EndOf(kImageSlot);
  EXPECT_EQ(down.worker, (WorkerRef{kImageSlot, 1}));
  PollFor(50 * kNsPerMs);
  EXPECT_EQ(region_->worker(kImageSlot).generation.load(), 1u) << "the scheduler still looks at what it wrote";
  supervisor_->SlotReleased(down.worker);
  ASSERT_TRUE(PollUntil([&] { return PidOf(kImageSlot) > 0; }));
  EXPECT_EQ(region_->worker(kImageSlot).generation.load(), 2u);
  EXPECT_EQ(region_->service(ServiceId(0)).stats.restarts.load(), 1u);
  EXPECT_EQ(region_->service(ServiceId(1)).stats.restarts.load(), 0u);
  Load(kImageSlot);
  EXPECT_EQ(news_.events.back().worker, (WorkerRef{kImageSlot, 2}));
}

TEST_F(WorkerSupervisorTest, OrdersAboutAProcessThatIsGoneDoNotReachItsSuccessor) {
  Start();
  const WorkerRef first = EndOf(kImageSlot).worker;
  supervisor_->SlotReleased(first);
  ASSERT_TRUE(PollUntil([&] { return PidOf(kImageSlot) > 0; }));
  Load(kImageSlot);
  const pid_t successor = PidOf(kImageSlot);
  supervisor_->Condemn(first, "hung");
  supervisor_->SlotReleased(first);
  PollFor(50 * kNsPerMs);
  EXPECT_TRUE(NoNews());
  EXPECT_TRUE(ProcessStartTicks(successor).has_value());
  supervisor_->Condemn({kImageSlot, 2}, "hung");
  EXPECT_THAT(Next().message, HasSubstr("hung and was ended"));
  supervisor_->SlotReleased(first);  // a release of the first process is none of the second
  PollFor(50 * kNsPerMs);
  EXPECT_EQ(region_->worker(kImageSlot).generation.load(), 2u);
}

TEST_F(WorkerSupervisorTest, GivesUpOnOneThatKeepsDying) {
  settings_.worker.max_restarts_per_minute = 2;
  Start();
  for (int i = 0; i < 2; ++i) {
    supervisor_->SlotReleased(EndOf(kTextSlot).worker);
    ASSERT_TRUE(PollUntil([&] { return PidOf(kTextSlot) > 0; })) << i;
    ASSERT_TRUE(NoNews()) << "within the limit it is just started again";
  }
  WorkerSlot& slot = region_->worker(kTextSlot);
  StoreText(slot.error, "out of memory");
  slot.state.store(static_cast<uint32_t>(WorkerState::kFailed));
  supervisor_->SlotReleased(EndOf(kTextSlot).worker);
  const WorkerEvent gave_up = Next();
  EXPECT_EQ(gave_up.kind, WorkerEvent::kGaveUp);
  EXPECT_EQ(gave_up.worker, (WorkerRef{kTextSlot, 3}));
  EXPECT_THAT(gave_up.message, ContainsRegex("^text is down: its worker ended 3 times within a minute; next try in "
                                             "[0-9]+ s. Last error: out of memory$"));
  EXPECT_EQ(LoadText(slot.error), gave_up.message);
  EXPECT_EQ(slot.state.load(), static_cast<uint32_t>(WorkerState::kFailed));
  PollFor(50 * kNsPerMs);
  EXPECT_EQ(slot.generation.load(), 3u) << "not within the minute";
  EXPECT_GT(PidOf(kImageSlot), 0) << "the other one does not notice";
}

TEST_F(WorkerSupervisorTest, ALimitOfZeroMeansNoRestart) {
  settings_.worker.max_restarts_per_minute = 0;
  Start();
  supervisor_->SlotReleased(EndOf(kTextSlot).worker);
  const WorkerEvent gave_up = Next();
  EXPECT_EQ(gave_up.kind, WorkerEvent::kGaveUp);
  EXPECT_EQ(gave_up.message, "text is down: its worker ended, and max_restarts_per_minute is 0");
  EXPECT_EQ(region_->service(ServiceId(1)).stats.restarts.load(), 0u);
}

TEST_F(WorkerSupervisorTest, AProgramThatIsMissingIsAWorkerThatEnded) {
  fs::remove(dir_ / "abacus-worker");
  settings_.worker.max_restarts_per_minute = 1;
  Start();
  const WorkerEvent down = Next();
  EXPECT_EQ(down.kind, WorkerEvent::kDown);
  EXPECT_EQ(down.worker, (WorkerRef{kTextSlot, 1}));
  EXPECT_EQ(down.message, "cannot run " + (dir_ / "abacus-worker").string() + ": No such file or directory");
  EXPECT_EQ(Next().worker.id, kImageSlot);
  supervisor_->SlotReleased(down.worker);
  const WorkerEvent again = Next();
  EXPECT_EQ(again.kind, WorkerEvent::kDown);
  EXPECT_EQ(again.worker, (WorkerRef{kTextSlot, 2}));
  supervisor_->SlotReleased(again.worker);
  const WorkerEvent gave_up = Next();
  EXPECT_EQ(gave_up.kind, WorkerEvent::kGaveUp);
  EXPECT_THAT(gave_up.message, HasSubstr("Last error: cannot run "));
}

TEST_F(WorkerSupervisorTest, StopsByCommandThenByForce) {
  Program("trap 'echo got SIGTERM >> " + (dir_ / "started").string() + "; exit 0' TERM\nwhile :; do sleep 0.05; done");
  Start();
  ASSERT_TRUE(PollUntil([&] { return std::ranges::count(Started(), '\n') == 2; }));
  Load(kImageSlot);  // it does not read its ring: it has to be killed. The other one still loads.
  const pid_t serving = PidOf(kImageSlot);
  daemons_[0].asked.clear();
  supervisor_->StopAll(500 * kNsPerMs);
  Command stop;
  ASSERT_TRUE(region_->worker(kImageSlot).commands.TryPop(&stop));
  EXPECT_EQ(stop.kind, Command::kStop);
  EXPECT_NE(region_->worker(kImageSlot).command_bell.value.load(), 0u) << "rung";
  EXPECT_TRUE(region_->worker(kTextSlot).commands.empty()) << "a loading worker reads no ring";
  EXPECT_EQ(std::ranges::count(Started(), '\n'), 3) << Started();
  ASSERT_EQ(news_.events.size(), 3u);
  EXPECT_EQ(news_.events[1].worker.id, kTextSlot);
  EXPECT_THAT(news_.events[1].message, HasSubstr("exited with code 0"));
  EXPECT_THAT(daemons_[1].asked, IsEmpty()) << "it obeyed";
  EXPECT_EQ(news_.events[2].worker.id, kImageSlot);
  EXPECT_THAT(news_.events[2].message, HasSubstr("did not stop in time and was ended"));
  EXPECT_THAT(daemons_[0].asked, ElementsAre("terminate " + std::to_string(serving) + " alive"));
}

TEST_F(WorkerSupervisorTest, KillAllRestartsNobody) {
  Start();
  Load(kImageSlot);
  supervisor_->KillAll("was still busy at shutdown");
  for (int i = 0; i < 2; ++i) {
    const WorkerEvent down = Next();
    EXPECT_THAT(down.message, HasSubstr("was still busy at shutdown and was ended"));
    supervisor_->SlotReleased(down.worker);
  }
  PollFor(50 * kNsPerMs);
  EXPECT_TRUE(NoNews());
  EXPECT_EQ(region_->worker(kImageSlot).generation.load(), 1u);
}

TEST_F(WorkerSupervisorTest, ANewSetStartsNewServicesAndLeavesTheOthers) {
  Start();
  Load(kImageSlot);
  const pid_t image = PidOf(kImageSlot), text = PidOf(kTextSlot);
  ServiceConfig config = services_[0]->config;
  config.spec.toml_path = "/models/new.toml";
  services_[0] = std::make_shared<const Service>(Service{ServiceId(0), kImageSlot, LaneId(0), config});
  config.name = "late";
  constexpr WorkerId kLateSlot{5};
  services_.push_back(std::make_shared<const Service>(Service{ServiceId(2), kLateSlot, LaneId(1), config}));
  supervisor_->Publish(Services());
  EXPECT_GT(PidOf(kLateSlot), 0);
  EXPECT_EQ(LoadText(region_->service(ServiceId(2)).name), "late");
  EXPECT_EQ(region_->service(ServiceId(2)).worker.load(), kLateSlot.value());
  Load(kLateSlot);
  EXPECT_EQ(PidOf(kImageSlot), image);
  EXPECT_EQ(PidOf(kTextSlot), text);
  EXPECT_EQ(region_->worker(kImageSlot).generation.load(), 1u);

  // The next process of a service starts with what the new set says.
  fs::remove(dir_ / "started");
  supervisor_->SlotReleased(EndOf(kImageSlot).worker);
  ASSERT_TRUE(PollUntil([&] { return !Started().empty(); }));
  EXPECT_THAT(Started(), HasSubstr("--worker 3 --model /models/new.toml "));
}

TEST_F(WorkerSupervisorTest, LeavesNoWorkerBehindWhenItIsDestroyed) {
  Start();
  const pid_t pid = PidOf(kImageSlot);
  supervisor_.reset();  // without StopAll: the controller leaves on an error
  const uint64_t end_ns = MonotonicNs() + 20 * kNsPerSecond;
  while (ProcessStartTicks(pid).has_value() && MonotonicNs() < end_ns) usleep(1000);
  EXPECT_FALSE(ProcessStartTicks(pid).has_value());
}

}  // namespace
}  // namespace abacus
