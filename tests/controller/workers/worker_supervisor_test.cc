// Real processes, but no workers: shell scripts stand in for the programs, and the test plays what a worker writes.
#include "controller/workers/worker_supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/clock.h"
#include "base/process.h"
#include "tests/support/specs.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using testing::ContainsRegex;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// What the test says of a daemon, and what the daemon was asked.
struct Daemon {
  bool is_client = true;
  std::string error;  // of every question
  bool has_one_gpu = true;
  std::vector<std::string> environment;
  std::vector<std::string> asked;
};

class FakeMps : public MpsDaemon {
 public:
  explicit FakeMps(Daemon* daemon) : daemon_(daemon) {}
  Result<bool> IsClient(pid_t pid) const override {
    daemon_->asked.push_back("client? " + std::to_string(pid));
    if (!daemon_->error.empty()) return Error(StatusCode::kUnavailable, daemon_->error);
    return daemon_->is_client;
  }
  Status Terminate(pid_t pid) const override {
    const bool alive = ProcessStartTicks(pid).has_value();
    daemon_->asked.push_back("terminate " + std::to_string(pid) + (alive ? " alive" : " dead"));
    if (!daemon_->error.empty()) return {StatusCode::kUnavailable, daemon_->error};
    return Status::Ok();
  }
  std::vector<std::string> environment() const override { return daemon_->environment; }
  bool has_one_gpu() const override { return daemon_->has_one_gpu; }

 private:
  Daemon* const daemon_;
};

class News : public WorkerListener {
 public:
  void Post(WorkerEvent event) override { events.push_back(std::move(event)); }
  std::vector<WorkerEvent> events;
};

class WorkerSupervisorTest : public testing::Test {
 protected:
  static constexpr WorkerId kImageSlot{3}, kTextSlot{1};  // neither is the number of its service

  WorkerSupervisorTest() {
    fs::create_directories(dir_);
    region_ = Region::Create("supervisor-" + std::to_string(getpid()), {.services = 3, .lanes = 2}, 1 << 20).value();
    settings_.worker.gpus = {"4", "GPU-abc"};
    settings_.worker.max_restarts_per_minute = 100;
    settings_.name = "segment";
    settings_.log_level = "warn";
    settings_.spin_us = 7;
    settings_.device = DeviceKind::kCuda;
    settings_.bin_dir = dir_;
    // `exec`: signals reach what sleeps, and nothing is left behind.
    Program("exec sleep 600");
    const Config config = test::TwoServices("fcfs");
    services_ = {std::make_shared<const Service>(Service{ServiceId(0), kImageSlot, LaneId(0), config.services[0]}),
                 std::make_shared<const Service>(Service{ServiceId(1), kTextSlot, LaneId(1), config.services[1]})};
  }
  ~WorkerSupervisorTest() override {
    supervisor_.reset();
    fs::remove_all(dir_);
  }

  // What workers do, once they have written down their arguments and the folder of their MPS daemon.
  void Program(const std::string& what) {
    for (const char* name : {"abacus-worker", "abacus-fake-worker"}) {
      std::ofstream(dir_ / name) << "#!/bin/sh\necho \"$0 $* pipe=$CUDA_MPS_PIPE_DIRECTORY\" >> "
                                 << (dir_ / "started").string() << "\n"
                                 << what << "\n";
      chmod((dir_ / name).c_str(), 0700);
    }
  }
  std::string Started() const {
    std::stringstream text;
    text << std::ifstream(dir_ / "started").rdbuf();
    return text.str();
  }
  ServiceSetPtr Services() const { return std::make_shared<const ServiceSet>(services_); }
  void Start() {
    std::vector<std::unique_ptr<MpsDaemon>> daemons;
    for (Daemon& daemon : daemons_) daemons.push_back(std::make_unique<FakeMps>(&daemon));
    supervisor_ = std::make_unique<WorkerSupervisor>(settings_, Services(), region_.get(), std::move(daemons));
    supervisor_->SetListener(&news_);
    supervisor_->StartAll();
  }
  bool PollUntil(const std::function<bool()>& condition) {
    const uint64_t end_ns = MonotonicNs() + 20 * kNsPerSecond;
    bool met = condition();  // asked once a round: some conditions take what they find
    while (!met && MonotonicNs() < end_ns) {
      supervisor_->Poll(10, -1);
      met = condition();
    }
    return met;
  }
  void PollFor(uint64_t duration_ns) {
    for (const uint64_t end_ns = MonotonicNs() + duration_ns; MonotonicNs() < end_ns;) supervisor_->Poll(5, -1);
  }
  // Waits for the next piece of news; none in time is a failure.
  WorkerEvent Next() {
    if (!PollUntil([&] { return news_.events.size() > seen_; })) {
      ADD_FAILURE() << "no news";
      return {};
    }
    return news_.events[seen_++];
  }
  bool NoNews() const { return news_.events.size() == seen_; }
  pid_t PidOf(WorkerId id) { return region_->worker(id).pid.load(); }
  // Plays the worker that has loaded, and waits until the supervisor says so.
  void Load(WorkerId id) {
    region_->worker(id).state.store(static_cast<uint32_t>(WorkerState::kLoaded), std::memory_order_release);
    const WorkerEvent up = Next();
    EXPECT_EQ(up.kind, WorkerEvent::kUp);
    EXPECT_EQ(up.worker.id, id);
  }
  // Plays the worker that has loaded all but its times.
  void AwaitTurn(WorkerId id) {
    region_->worker(id).state.store(static_cast<uint32_t>(WorkerState::kAwaitsTurn), std::memory_order_release);
  }
  // Whether it was given its turn; takes the order.
  bool HasTurn(WorkerId id) {
    Command command;
    if (!region_->worker(id).commands.TryPop(&command)) return false;
    EXPECT_EQ(command.kind, Command::kMeasure);
    return true;
  }
  // Plays a worker that fails while it loads; returns the news of it.
  WorkerEvent FailWith(WorkerId id, StatusCode code, const std::string& message) {
    WorkerSlot& slot = region_->worker(id);
    StoreText(slot.error, message);
    slot.error_code.store(static_cast<uint32_t>(code));
    slot.state.store(static_cast<uint32_t>(WorkerState::kFailed), std::memory_order_release);
    return EndOf(id);
  }
  // Ends the process as a stranger would; returns the news of it.
  WorkerEvent EndOf(WorkerId id) {
    kill(PidOf(id), SIGKILL);
    const WorkerEvent down = Next();
    EXPECT_EQ(down.kind, WorkerEvent::kDown);
    EXPECT_EQ(down.worker.id, id);
    return down;
  }

  const fs::path dir_ = fs::temp_directory_path() / ("supervisor-test-" + std::to_string(getpid()));
  std::unique_ptr<Region> region_;
  WorkerSupervisor::Settings settings_;
  std::vector<ServicePtr> services_;
  std::array<Daemon, 2> daemons_;
  News news_;
  size_t seen_ = 0;
  std::unique_ptr<WorkerSupervisor> supervisor_;
};

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
  Program("{ cat /proc/self/fd/10; cat /proc/self/fd/11; echo; } >> " + (dir_ / "got").string() + "\nexec sleep 600");
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

TEST_F(WorkerSupervisorTest, OneThatDoesNotLoadInTimeIsEnded) {
  settings_.worker.load_timeout_ns = 20 * kNsPerMs;
  Start();
  EXPECT_THAT(Next().message, HasSubstr("did not load its model within load_timeout_s and was ended"));
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
