// Large tensors in frames, copied by other threads.
#include <gmock/gmock.h>

#include "tests/controller/intake/payload_fixture.h"

namespace abacus {
namespace {

class PayloadTest : public PayloadFixture {
 protected:
  static std::string RowOf(int32_t value) {
    std::string row(kRowBytes, '\0');
    for (size_t i = 0; i < row.size(); i += sizeof(value)) std::memcpy(row.data() + i, &value, sizeof(value));
    return row;
  }
};

INSTANTIATE_TEST_SUITE_P(Threads, PayloadTest, testing::Values(1, 2, 4));

TEST_P(PayloadTest, LargeInputsArriveAsTheyAre) {
  Start(16 << 20);
  Dealer dealer(endpoint());
  for (uint64_t id = 0; id < 20; ++id) dealer.Send(Wide(id, 3), {std::string(3 * kRowBytes, static_cast<char>(id))});
  for (int i = 0; i < 20; ++i) {
    const uint32_t slot = NextQuery();
    EXPECT_EQ(Input(slot, 0), std::string(3 * kRowBytes, static_cast<char>((*table_)[slot].id)));
    Finish(slot, StatusCode::kWorkerFailed);
  }
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(dealer.Receive().has_value());
  EXPECT_EQ(front_end_->Copying(), 0u);
  ExpectAllBack();
}

TEST_P(PayloadTest, AQueryOfManyRowsHasABlockOfItsOwnShape) {
  Start(16 << 20);
  Dealer dealer(endpoint());
  const std::string x(5 * kRowBytes, 'q');  // the largest batch is 4
  dealer.Send(Wide(1, 5), {x});
  const uint32_t slot = NextQuery();
  EXPECT_EQ((*table_)[slot].rows, 5u);
  EXPECT_EQ(Input(slot, 0), x);
  const std::string y(5 * kRowBytes, 'y');
  WriteOutput(slot, 0, y);
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.outputs.at(0).shape, (Shape{5, kWide}));
  EXPECT_EQ(answer->outputs, std::vector<std::string>{y});
  ExpectAllBack();
}

TEST_P(PayloadTest, WhatNoBlockCouldHoldIsNotToBeRetried) {
  limits_.max_client_bytes = 4 * kRowBytes;
  Start(16 << 20);
  Dealer dealer(endpoint());
  dealer.Send(Wide(1, 3), {std::string(3 * kRowBytes, 'q')});
  ExpectRefused(dealer, 1, StatusCode::kInvalidArgument, "inputs");
  ExpectAllBack();
}

TEST_P(PayloadTest, AWrongValueIsRefusedAndReachesNobody) {
  Start(16 << 20);
  Dealer dealer(endpoint());
  std::string bad = RowOf(9);
  bad[kRowBytes - 4] = 10;
  dealer.Send(Codes(1), {bad});
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 1u);
  EXPECT_EQ(answer->reply.status, StatusCode::kInvalidArgument);
  EXPECT_EQ(answer->reply.field, "inputs[0]");
  EXPECT_EQ(answer->reply.message, "x[" + std::to_string(kWide - 1) + "] is 10, allowed are 0 to 9");
  EXPECT_EQ(answer->reply.model, "text");
  EXPECT_EQ(header().rejected_messages.load(), 1u);
  dealer.Send(Codes(1), {RowOf(9)});  // the id is free again
  Finish(NextQuery(), StatusCode::kWorkerFailed);
  ASSERT_TRUE(dealer.Receive().has_value());
  ExpectAllBack();
}

TEST_P(PayloadTest, ACancelFollowsAQueryThatIsBeingCopied) {
  Start(64 << 20);
  Dealer dealer(endpoint());
  for (uint64_t id = 0; id < 50; ++id) {
    dealer.Send(Wide(id, 4), {std::string(4 * kRowBytes, 'q')});
    dealer.Send(Ask(protocol::RequestType::kCancel, id));
    uint32_t told = 0;
    ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] { return channel_->submitted.pop(told); }));
    EXPECT_EQ(told & QueryChannel::kCancelBit, 0u) << "first the query";
    const uint32_t slot = told;
    ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] { return channel_->submitted.pop(told); }));
    EXPECT_EQ(told, slot | QueryChannel::kCancelBit);
    Finish(slot, StatusCode::kCancelled);
    ASSERT_TRUE(dealer.Receive().has_value());
  }
  ExpectAllBack();
}

TEST_P(PayloadTest, WhatWasAcceptedBeforeDrainingIsServed) {
  Start(64 << 20);
  Dealer dealer(endpoint());
  for (uint64_t id = 0; id < 50; ++id) dealer.Send(Wide(id, 4), {std::string(4 * kRowBytes, 'q')});
  ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] { return front_end_->InUse() > 5; }));
  front_end_->SetDraining();
  int served = 0, refused = 0;
  dealer.SetPatience(1);
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] {
    for (uint32_t slot = 0; TakeQuery(&slot);) Finish(slot, StatusCode::kWorkerFailed);
    if (const auto answer = dealer.Receive()) {
      ++(answer->reply.status == StatusCode::kShuttingDown ? refused : served);
    }
    return served + refused == 50;
  }));
  EXPECT_GT(served, 5);
  ExpectAllBack();
}

TEST_P(PayloadTest, OnceClosedNothingMoreGoesToTheScheduler) {
  Start(64 << 20);
  front_end_->SetClosed();
  Dealer dealer(endpoint());
  dealer.Send(Wide(1, 4), {std::string(4 * kRowBytes, 'q')});
  if (GetParam() == 1) {  // nothing is ever between: draining alone keeps queries away
    Finish(NextQuery(), StatusCode::kShuttingDown);
  }
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kShuttingDown);
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return front_end_->Copying() == 0; }));
  ExpectAllBack();
}

}  // namespace
}  // namespace abacus
