// A supervisor of real processes, but no workers: shell scripts stand in for the programs, and the test plays what a
// worker writes.
#ifndef ABACUS_TESTS_CONTROLLER_WORKERS_WORKER_SUPERVISOR_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_WORKERS_WORKER_SUPERVISOR_FIXTURE_H_

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
#include "controller/workers/worker_supervisor.h"
#include "tests/support/specs.h"

namespace abacus::test {

namespace fs = std::filesystem;

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
    const Config config = TwoServices("fcfs");
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

}  // namespace abacus::test

#endif  // ABACUS_TESTS_CONTROLLER_WORKERS_WORKER_SUPERVISOR_FIXTURE_H_
