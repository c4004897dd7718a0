// The scheduler against a manual clock: the test plays front end, workers and supervisor.
#ifndef ABACUS_TESTS_CONTROLLER_SCHEDULE_SCHEDULER_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_SCHEDULE_SCHEDULER_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "controller/schedule/scheduler_loop.h"
#include "tests/support/specs.h"

namespace abacus {

class FakeControl : public WorkerControl {
 public:
  void SlotReleased(WorkerRef worker) override { released.push_back(worker); }
  void Condemn(WorkerRef worker, const std::string& why) override { condemned.emplace_back(worker, why); }
  std::vector<WorkerRef> released;
  std::vector<std::pair<WorkerRef, std::string>> condemned;
};

// A job of one waiting query, in the bucket that holds it alone.
inline Candidate BeginAlone(const ServiceView& service, uint32_t query) {
  const WaitingQuery& waiting = service.waiting[query];
  return Candidate::Begin(Batch{&service, waiting.bucket, waiting.rows, {query}});
}

// Plans what the test says.
class ScriptedPolicy : public Policy {
 public:
  explicit ScriptedPolicy(std::function<Plan(const Snapshot&)> next, bool in_rounds = true)
      : next_(std::move(next)), in_rounds_(in_rounds) {}
  std::string_view name() const override { return "scripted"; }
  bool in_rounds() const override { return in_rounds_; }
  Plan Next(const Snapshot& snapshot) const override { return next_(snapshot); }

 private:
  const std::function<Plan(const Snapshot&)> next_;
  const bool in_rounds_;
};

class SchedulerLoopTest : public testing::Test {
 protected:
  static constexpr uint64_t kSoloNs = 10 * kNsPerMs;

  SchedulerLoopTest() : table_(64), channel_(64) {
    region_ = Region::Create("sched-" + std::to_string(getpid()), {2, 2}, 1 << 20).value();
  }
  // One query a job; service 0 lets three wait.
  void Start(const std::string& policy, bool abandon = false) {
    config_ = test::TwoServices(policy);
    config_.scheduler.abandon = abandon;
    config_.scheduler.batching = Batching::kOff;
    config_.services[0].queue_limit = 3;
    StartAsConfigured();
  }
  void StartAsConfigured() { StartWith(MakePolicy(config_.scheduler).value()); }
  // With config_ as it is.
  void StartWith(std::unique_ptr<Policy> policy) {
    services_ = MakeServiceSet(config_);
    SchedulerLoop::Setup setup;
    setup.config = config_.scheduler;
    setup.round_timeout_ns = kNsPerSecond;
    setup.policy = std::move(policy);
    for (size_t i = 0; i < config_.worker.gpus.size(); ++i) setup.predictors.emplace_back();
    setup.region = region_.get();
    setup.table = &table_;
    setup.channel = &channel_;
    setup.control = &control_;
    setup.wake_front_end = [this] { ++wakes_; };
    setup.clock = [this] { return now_ns_ + planning_ns_; };
    loop_ = std::make_unique<SchedulerLoop>(std::move(setup), services_);
    generations_.fill(0);
  }
  // Service number n runs in worker slot number n.
  WorkerSlot& worker_slot(uint32_t worker) { return region_->worker(WorkerId(worker)); }
  ServiceStats& stats(uint32_t service) { return region_->service(ServiceId(service)).stats; }
  LaneBlock& lane(uint32_t id = 0) { return region_->lane(LaneId(id)); }
  WorkerRef Worker(uint32_t worker) const { return {WorkerId(worker), generations_[worker]}; }
  void WorkerUp(uint32_t worker) {
    for (auto& entry : worker_slot(worker).ranges) {
      entry.operators = 10;
      entry.cut_count = 3;
      entry.cuts = {0, 5, 10};
      entry.solo_ns = kSoloNs;
    }
    ++generations_[worker];
    Post(WorkerEvent::kUp, worker);
  }
  void Post(WorkerEvent::Kind kind, uint32_t worker, const std::string& message = {}) {
    loop_->Post({kind, Worker(worker), message});
    Step();
  }
  // Rows of one query, in a block of its own: slot number n has the one at n * kBlockBytes.
  static constexpr uint64_t kBlockBytes = 4096;
  uint32_t Submit(uint32_t service, uint64_t qos_ns = kNsPerSecond, uint32_t rows = 1, uint32_t sequence = 4) {
    const uint32_t number = table_.Acquire().value();
    Query& query = table_[number];
    query.id = ++last_id_;
    query.service = services_->services()[service];
    query.rows = rows;
    query.sequence = query.service->config.spec.has_sequence() ? sequence : 0;
    query.synthetic = synthetic_;
    query.block = {.offset_bytes = number * kBlockBytes, .bytes = kBlockBytes};
    query.timing = {};
    query.arrival_ns = now_ns_;
    query.deadline_ns = now_ns_ + qos_ns;
    channel_.submitted.push(number);
    Step();
    return number;
  }
  void Cancel(uint32_t slot) {
    channel_.submitted.push(slot | QueryChannel::kCancelBit);
    Step();
  }
  void Step() { loop_->DoWork(now_ns_); }
  void Advance(uint64_t ns) {
    now_ns_ += ns;
    Step();
  }
  std::optional<Command> TakeCommand(uint32_t worker) {
    Command command;
    if (!worker_slot(worker).commands.TryPop(&command)) return std::nullopt;
    return command;
  }
  // The table that a command names.
  std::vector<JobQuery> QueriesOf(uint32_t worker, const Command& command) {
    const auto& table = worker_slot(worker).queries[command.query_table];
    return {table.begin(), table.begin() + command.query_count};
  }
  void Complete(uint32_t worker, const Command& command, StatusCode code = StatusCode::kOk) {
    Completion completion;
    completion.job_id = command.job_id;
    completion.first = command.first;
    completion.last = command.last;
    completion.status = static_cast<uint32_t>(code);
    ASSERT_TRUE(worker_slot(worker).completions.TryPush(completion));
    Step();
  }
  std::vector<uint32_t> Done() {
    std::vector<uint32_t> slots;
    uint32_t number = 0;
    while (channel_.done.pop(number)) slots.push_back(number);
    return slots;
  }

  Config config_;
  ServiceSetPtr services_;
  std::array<uint32_t, kMaxWorkers> generations_{};
  std::unique_ptr<Region> region_;
  QueryTable table_;
  QueryChannel channel_;
  FakeControl control_;
  std::unique_ptr<SchedulerLoop> loop_;
  uint64_t now_ns_ = 1000 * kNsPerSecond;
  uint64_t planning_ns_ = 0;  // how much later than now_ns_ a step's plan is ready
  int wakes_ = 0;
  uint64_t last_id_ = 100;
  bool synthetic_ = false;  // of what is submitted
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_SCHEDULE_SCHEDULER_FIXTURE_H_
