#include "controller/workers/worker_link.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace abacus {
namespace {

using Link = WorkerLink<std::string>;

Command Order(uint64_t job, uint32_t first, uint32_t last) {
  Command command;
  command.kind = Command::kRun;
  command.job_id = job;
  command.first = first;
  command.last = last;
  command.gate = 5;
  command.sent_ns = 77;
  return command;
}

Completion Done(uint64_t job, uint32_t first, uint32_t last, StatusCode status = StatusCode::kOk) {
  Completion completion;
  completion.job_id = job;
  completion.first = first;
  completion.last = last;
  completion.status = static_cast<uint32_t>(status);
  return completion;
}

class WorkerLinkTest : public testing::Test {
 protected:
  WorkerLinkTest() : slot_(std::make_unique<WorkerSlot>()) { link_.Attach(slot_.get()); }
  Link::Answer Take() { return link_.Take(&completion_, &answered_); }
  void Answer(const Completion& completion) { ASSERT_TRUE(slot_->completions.TryPush(completion)); }

  const std::unique_ptr<WorkerSlot> slot_;
  Link link_;
  Completion completion_;
  Link::Sent answered_;
};

TEST_F(WorkerLinkTest, AnswersComeInTheOrderOfTheCommands) {
  EXPECT_TRUE(link_.idle());
  EXPECT_EQ(Take(), Link::Answer::kNone);
  const uint32_t bell = slot_->command_bell.value.load();
  ASSERT_TRUE(link_.Send(Order(1, 0, 4), {}, "one"));
  EXPECT_NE(slot_->command_bell.value.load(), bell) << "the worker is woken";
  ASSERT_TRUE(link_.Send(Order(2, 4, 9), {}, "two"));
  EXPECT_EQ(link_.sent().size(), 2u);
  Command command;
  ASSERT_TRUE(slot_->commands.TryPop(&command));
  EXPECT_EQ(command.job_id, 1u);
  EXPECT_EQ(Take(), Link::Answer::kNone);

  Answer(Done(1, 0, 4));
  ASSERT_EQ(Take(), Link::Answer::kGood);
  EXPECT_EQ(completion_.job_id, 1u);
  EXPECT_EQ(answered_.tag, "one");
  EXPECT_EQ(answered_.gate, 5u);
  EXPECT_EQ(answered_.sent_ns, 77u);
  EXPECT_FALSE(link_.idle());
  Answer(Done(2, 4, 9, StatusCode::kWorkerFailed));
  ASSERT_EQ(Take(), Link::Answer::kGood) << "a failure is an answer";
  EXPECT_EQ(answered_.tag, "two");
  EXPECT_TRUE(link_.idle());
}

TEST_F(WorkerLinkTest, NoMoreThanTwoAreOut) {
  ASSERT_TRUE(link_.Send(Order(1, 0, 4), {}, "one"));
  ASSERT_TRUE(link_.Send(Order(2, 0, 4), {}, "two"));
  EXPECT_FALSE(link_.Send(Order(3, 0, 4), {}, "three"));
  EXPECT_EQ(slot_->commands.size(), 2u);
  Answer(Done(1, 0, 4));
  ASSERT_EQ(Take(), Link::Answer::kGood);
  EXPECT_TRUE(link_.Send(Order(3, 0, 4), {}, "three"));
}

TEST_F(WorkerLinkTest, QueriesLieWhereTheCommandSays) {
  const std::vector<JobQuery> one = {{.block_offset = 64, .block_bytes = 128, .rows = 2, .sequence = 5}};
  const std::vector<JobQuery> two = {{.block_offset = 256, .block_bytes = 64, .rows = 1, .sequence = 0},
                                     {.block_offset = 512, .block_bytes = 64, .rows = 3, .sequence = 0}};
  const auto published = [&](const Command& command) {
    std::vector<uint64_t> offsets;
    for (uint32_t i = 0; i < command.query_count; ++i) {
      offsets.push_back(slot_->queries[command.query_table][i].block_offset);
    }
    return offsets;
  };
  Command first, second, third;
  ASSERT_TRUE(link_.Send(Order(1, 0, 4), one, "one"));
  ASSERT_TRUE(link_.Send(Order(2, 0, 4), two, "two"));
  ASSERT_TRUE(slot_->commands.TryPop(&first));
  ASSERT_TRUE(slot_->commands.TryPop(&second));
  EXPECT_EQ(published(first), std::vector<uint64_t>{64}) << "the second has not overwritten the first";
  EXPECT_EQ(slot_->queries[first.query_table][0].rows, 2u);
  EXPECT_EQ(slot_->queries[first.query_table][0].sequence, 5u);
  EXPECT_EQ(published(second), (std::vector<uint64_t>{256, 512}));

  Answer(Done(1, 0, 4));
  ASSERT_EQ(Take(), Link::Answer::kGood);
  ASSERT_TRUE(link_.Send(Order(3, 0, 4), {}, "three"));
  ASSERT_TRUE(slot_->commands.TryPop(&third));
  EXPECT_EQ(third.query_count, 0u);
  EXPECT_EQ(published(second), (std::vector<uint64_t>{256, 512})) << "it may still run";
  EXPECT_NE(third.query_table, second.query_table);
}

TEST_F(WorkerLinkTest, AFullRingTakesNothing) {
  while (slot_->commands.TryPush(Order(9, 0, 1))) {
  }
  EXPECT_FALSE(link_.Send(Order(1, 0, 4), {}, "one"));
  EXPECT_TRUE(link_.idle());
}

TEST_F(WorkerLinkTest, AnswersToOtherCommandsAreNonsense) {
  Answer(Done(1, 0, 4));
  EXPECT_EQ(Take(), Link::Answer::kNonsense) << "nothing was sent";
  ASSERT_TRUE(link_.Send(Order(1, 0, 4), {}, "one"));
  ASSERT_TRUE(link_.Send(Order(2, 0, 4), {}, "two"));
  for (const Completion& wrong : {Done(2, 0, 4), Done(1, 1, 4), Done(1, 0, 5)}) {
    Answer(wrong);
    EXPECT_EQ(Take(), Link::Answer::kNonsense);
  }
  Completion bad_status = Done(1, 0, 4);
  bad_status.status = static_cast<uint32_t>(kStatusCodeNames.size());
  Answer(bad_status);
  EXPECT_EQ(Take(), Link::Answer::kNonsense);
  EXPECT_EQ(link_.sent().size(), 2u) << "they answer nothing";
}

TEST_F(WorkerLinkTest, ForgetsTheOldest) {
  ASSERT_TRUE(link_.Send(Order(1, 0, 4), {}, "one"));
  ASSERT_TRUE(link_.Send(Order(2, 0, 4), {}, "two"));
  link_.Forget();
  Answer(Done(2, 0, 4));
  ASSERT_EQ(Take(), Link::Answer::kGood);
  EXPECT_EQ(answered_.tag, "two");
}

TEST_F(WorkerLinkTest, ResetStartsOverForTheNextProcess) {
  ASSERT_TRUE(link_.Send(Order(1, 0, 4), {}, "one"));
  ASSERT_TRUE(link_.Send(Order(2, 0, 4), {}, "two"));
  Answer(Done(1, 0, 4));
  link_.Down();
  EXPECT_TRUE(link_.idle());
  EXPECT_TRUE(slot_->commands.empty());
  EXPECT_EQ(Take(), Link::Answer::kNone);
  ASSERT_TRUE(link_.Send(Order(3, 0, 4), {}, "three"));
  Answer(Done(3, 0, 4));
  EXPECT_EQ(Take(), Link::Answer::kGood);
}

}  // namespace
}  // namespace abacus
