// The scheduler against a manual clock: the test plays front end, workers and supervisor.
#ifndef ABACUS_TESTS_CONTROLLER_SCHEDULER_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_SCHEDULER_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "controller/scheduler_loop.h"
#include "shm/clock.h"
#include "tests/support/specs.h"

namespace abacus {

class FakeControl : public WorkerControl {
 public:
  void BlockReleased(uint32_t worker) override { released.push_back(worker); }
  void Condemn(uint32_t worker, const std::string& why) override { condemned.emplace_back(worker, why); }
  std::vector<uint32_t> released;
  std::vector<std::pair<uint32_t, std::string>> condemned;
};

class SchedulerLoopTest : public testing::Test {
 protected:
  static constexpr uint64_t kSoloNs = 10 * kNsPerMs;

  SchedulerLoopTest() : table_(64), channel_(64) {
    region_ = Region::Create("sched-" + std::to_string(getpid()), 2, 1 << 20).value();
  }
  void Start(const std::string& policy, bool abandon = false) {
    config_ = test::TwoServices(policy);
    config_.scheduler.abandon = abandon;
    config_.services[0].queue_limit = 3;
    config_.worker.round_timeout_ns = kNsPerSecond;
    loop_ = std::make_unique<SchedulerLoop>(
        config_, region_.get(), &table_, &channel_, MakePolicy(policy).value(), ServicePredictor(), &control_,
        [this] { ++wakes_; }, [this] { return now_ns_ + planning_ns_; });
  }
  void WorkerUp(uint32_t worker) {
    for (auto& entry : region_->worker(worker).ranges) {
      entry.operators = 10;
      entry.cut_count = 3;
      entry.cuts = {0, 5, 10};
      entry.solo_ns = kSoloNs;
    }
    loop_->Post({WorkerEvent::kUp, worker, {}});
    Step();
  }
  uint32_t Submit(uint32_t service, uint64_t qos_ns = kNsPerSecond) {
    const uint32_t slot = table_.Acquire().value();
    table_[slot].service = service;
    table_[slot].bucket = 0;
    table_[slot].arrival_ns = now_ns_;
    table_[slot].deadline_ns = now_ns_ + qos_ns;
    channel_.submitted.push(slot);
    Step();
    return slot;
  }
  void Step() { loop_->DoWork(now_ns_); }
  void Advance(uint64_t ns) {
    now_ns_ += ns;
    Step();
  }
  std::optional<Command> TakeCommand(uint32_t worker) {
    Command command;
    if (!region_->worker(worker).commands.TryPop(&command)) return std::nullopt;
    return command;
  }
  void Complete(uint32_t worker, const Command& command, StatusCode code = StatusCode::kOk) {
    Completion completion;
    completion.job_id = command.job_id;
    completion.first = command.first;
    completion.last = command.last;
    completion.status = static_cast<uint32_t>(code);
    ASSERT_TRUE(region_->worker(worker).completions.TryPush(completion));
    Step();
  }
  std::vector<uint32_t> Done() {
    std::vector<uint32_t> slots;
    uint32_t slot = 0;
    while (channel_.done.pop(slot)) slots.push_back(slot);
    return slots;
  }

  Config config_;
  std::unique_ptr<Region> region_;
  QueryTable table_;
  QueryChannel channel_;
  FakeControl control_;
  std::unique_ptr<SchedulerLoop> loop_;
  uint64_t now_ns_ = 1000 * kNsPerSecond;
  uint64_t planning_ns_ = 0;  // how much later than now_ns_ a step's plan is ready
  int wakes_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_SCHEDULER_FIXTURE_H_
