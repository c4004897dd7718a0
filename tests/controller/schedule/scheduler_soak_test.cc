// Everything at once under every policy: queries of mixed rows and targets, cancellations, failures and deaths of
// workers. Each query gets one answer, OK only when each of its rows ran once, and no worker has its tensors then.
#include <gmock/gmock.h>

#include <deque>
#include <map>
#include <random>

#include "tests/controller/schedule/scheduler_fixture.h"

namespace abacus {
namespace {

using testing::IsEmpty;

class SoakTest : public SchedulerLoopTest, public testing::WithParamInterface<std::string_view> {
 protected:
  static constexpr uint32_t kServices = 2;
  struct Open {
    std::vector<int> runs;  // of each row, to the end of the model
    bool synthetic = false;
    bool cancelled = false;
  };
  struct Out {
    Command command;
    std::vector<uint32_t> slots;
    std::vector<JobQuery> queries;
  };

  uint32_t Below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }
  bool OneIn(uint32_t many) { return Below(many) == 0; }

  void SubmitOne() {
    if (table_.in_use() == table_.capacity()) return;
    const uint32_t service = Below(kServices);
    const uint32_t rows = OneIn(3) ? 1 + Below(11) : 1 + Below(2);
    synthetic_ = OneIn(8);
    // Known before the step in which it may be answered.
    const uint32_t slot = table_.Acquire().value();
    table_.Return(slot);
    ASSERT_TRUE(open_.emplace(slot, Open{std::vector<int>(rows, 0), synthetic_, false}).second);
    ASSERT_EQ(Submit(service, (2 + Below(120)) * kNsPerMs, rows, 1 + Below(8)), slot);
    ++submitted_;
  }
  void CancelOne() {
    if (open_.empty()) return;
    auto it = std::next(open_.begin(), Below(static_cast<uint32_t>(open_.size())));
    if (std::exchange(it->second.cancelled, true)) return;
    Cancel(it->first);
  }
  void TakeCommands() {
    for (uint32_t worker = 0; worker < kServices; ++worker) {
      while (const auto command = TakeCommand(worker)) {
        Out out{*command, {}, QueriesOf(worker, *command)};
        int64_t rows = 0;
        for (const JobQuery& query : out.queries) {
          out.slots.push_back(static_cast<uint32_t>(query.block_offset / kBlockBytes));
          rows += query.rows;
          ASSERT_TRUE(open_.contains(out.slots.back())) << "the tensors of a query that was answered";
          ASSERT_EQ(query.query_rows, open_[out.slots.back()].runs.size());
          ASSERT_LE(query.first_row + query.rows, query.query_rows);
        }
        ASSERT_LE(rows, config_.services[worker].spec.bucket(command->bucket).batch);
        out_[worker].push_back(std::move(out));
      }
    }
  }
  void CompleteOne(uint32_t worker) {
    if (out_[worker].empty()) return;
    const Out out = out_[worker].front();
    if (out.command.gate != 0 && !Gate(&lane().gate).Reached(out.command.gate)) return;
    out_[worker].pop_front();
    const bool fails = OneIn(25);
    for (size_t i = 0; i < out.slots.size(); ++i) {
      ASSERT_TRUE(open_.contains(out.slots[i])) << "it was answered while a worker used its tensors";
      if (fails || out.command.last < 10) continue;
      const JobQuery& query = out.queries[i];
      for (uint32_t row = 0; row < query.rows; ++row) ++open_[out.slots[i]].runs[query.first_row + row];
    }
    Complete(worker, out.command, fails ? StatusCode::kWorkerFailed : StatusCode::kOk);
  }
  void Kill(uint32_t worker) {
    if (!up_[worker]) return;
    up_[worker] = false;
    out_[worker].clear();
    Post(WorkerEvent::kDown, worker, "killed");
  }
  void Revive(uint32_t worker) {
    if (std::exchange(up_[worker], true)) return;
    WorkerUp(worker);
  }
  void TakeAnswers() {
    for (const uint32_t slot : Done()) {
      const auto found = open_.find(slot);
      ASSERT_NE(found, open_.end()) << "answered twice";
      const Query& query = table_[slot];
      ++answers_[query.status];
      if (query.status == StatusCode::kOk && !found->second.synthetic) {
        for (const int runs : found->second.runs) ASSERT_EQ(runs, 1) << "OK, but not every row ran once";
      }
      ASSERT_TRUE(query.status != StatusCode::kCancelled || found->second.cancelled);
      open_.erase(found);
      table_.Return(slot);
    }
  }

  std::mt19937 random_{7};
  std::map<uint32_t, Open> open_;  // by slot
  std::map<StatusCode, int> answers_;
  std::array<std::deque<Out>, kServices> out_;
  std::array<bool, kServices> up_{};
  int submitted_ = 0;
};

TEST_P(SoakTest, EveryQueryIsAnsweredOnceAndRightly) {
  config_ = test::TwoServices(std::string(GetParam()));
  config_.scheduler.abandon = true;
  config_.scheduler.lead_us = 500;
  config_.scheduler.max_queue_delay_us = 1000;
  config_.services[0].queue_limit = 20;
  StartAsConfigured();
  const auto step = [&](bool feeds) {
    const uint32_t what = Below(20);
    if (feeds && what < 7) SubmitOne();
    if (feeds && what == 7) CancelOne();
    if (feeds && OneIn(400)) Kill(Below(kServices));
    if (!feeds || OneIn(30)) Revive(Below(kServices));
    if (what >= 8) CompleteOne(what % kServices);
    Advance(OneIn(3) ? Below(3'000'000) : Below(300'000));
    TakeCommands();
    TakeAnswers();
  };
  for (int i = 0; i < 20'000 && !HasFatalFailure(); ++i) step(/*feeds=*/true);
  for (int i = 0; i < 5'000 && loop_->InFlight() > 0 && !HasFatalFailure(); ++i) step(/*feeds=*/false);
  EXPECT_EQ(loop_->InFlight(), 0u);
  EXPECT_THAT(open_, IsEmpty());
  EXPECT_THAT(control_.condemned, IsEmpty());
  EXPECT_EQ(table_.in_use(), 0u);
  int answered = 0;
  for (const auto& [code, count] : answers_) answered += count;
  EXPECT_EQ(answered, submitted_);
  for (const StatusCode code : {StatusCode::kOk, StatusCode::kCancelled, StatusCode::kWorkerFailed}) {
    EXPECT_GT(answers_[code], 20) << StatusCodeName(code) << ": else the test shows little";
  }
  Advance(kNsPerMs);
  for (uint32_t service = 0; service < kServices; ++service) EXPECT_EQ(stats(service).queued.load(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Policies, SoakTest, testing::ValuesIn(kPolicyNames), [](const auto& policy) {
  std::string name(policy.param);
  std::ranges::replace(name, '-', '_');
  return name;
});

}  // namespace
}  // namespace abacus
