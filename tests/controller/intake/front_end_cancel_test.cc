// Queries that their client takes back, or whose client has gone.
#include "tests/controller/intake/front_end_fixture.h"

namespace abacus {
namespace {

constexpr int kBrieflyMs = 200;

using protocol::RequestType;

TEST_F(FrontEndTest, ACancelledQueryIsToldOnceAndAnsweredAsTheSchedulerSays) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(7));
  const uint32_t slot = NextQuery();
  for (int i = 0; i < 3; ++i) dealer.Send(Ask(RequestType::kCancel, 7));
  dealer.Send(Ask(RequestType::kModels, 8));
  const auto models = dealer.Receive();
  ASSERT_TRUE(models.has_value());
  EXPECT_EQ(models->reply.id, 8u) << "a cancel has no reply of its own";
  EXPECT_TRUE(IsCancelled(slot));
  Finish(slot, StatusCode::kCancelled, "its client cancelled it");
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 7u);
  EXPECT_EQ(answer->reply.status, StatusCode::kCancelled);
  ExpectAllBack();
}

TEST_F(FrontEndTest, ACancelMayComeTooLate) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(7));
  const uint32_t slot = NextQuery();
  dealer.Send(Ask(RequestType::kCancel, 7));
  EXPECT_TRUE(IsCancelled(slot));
  Finish(slot);  // it was done before the scheduler looked
  auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  dealer.Send(Ask(RequestType::kCancel, 7));
  dealer.Send(Synthetic(7));  // the id again
  const uint32_t again = NextQuery();
  EXPECT_EQ(cancelled_.size(), 1u) << "nothing was in flight";
  dealer.Send(Ask(RequestType::kCancel, 7));
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] {
    uint32_t other = 0;
    TakeQuery(&other);
    return cancelled_.size() == 2;
  })) << "what was said of the query before does not count";
  EXPECT_EQ(cancelled_.back(), again);
  Finish(again, StatusCode::kCancelled);
  ASSERT_TRUE(dealer.Receive().has_value());
  ExpectAllBack();
}

TEST_F(FrontEndTest, NobodyCancelsAnothersQuery) {
  Start();
  Dealer dealer(endpoint()), other(endpoint());
  dealer.Send(Synthetic(7));
  const uint32_t slot = NextQuery();
  other.Send(Synthetic(8));
  const uint32_t others = NextQuery();
  for (const uint64_t id : {uint64_t{7}, uint64_t{0}, UINT64_MAX}) other.Send(Ask(RequestType::kCancel, id));
  other.Send(Ask(RequestType::kCancel, 8));
  EXPECT_TRUE(IsCancelled(others));
  EXPECT_EQ(cancelled_.size(), 1u);
  Finish(slot);
  Finish(others, StatusCode::kCancelled);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  ExpectAllBack();
}

class VanishingClientTest : public FrontEndTest {
 protected:
  void ExpectItsQueriesCancelled() {
    Start();
    Dealer stays(endpoint());
    stays.Send(Synthetic(1));
    const uint32_t kept = NextQuery();
    std::vector<uint32_t> slots;
    {
      Dealer dealer(endpoint());
      dealer.Send(Synthetic(1));
      Finish(NextQuery());
      ASSERT_TRUE(dealer.Receive().has_value()) << "this one is answered already";
      for (uint64_t id = 2; id < 5; ++id) dealer.Send(ImageQuery(id, 1), {std::string(16, 'q')});
      for (int i = 0; i < 3; ++i) slots.push_back(NextQuery());
      dealer.Send(Ask(RequestType::kCancel, 2));
      EXPECT_TRUE(IsCancelled(slots[0]));
    }
    for (const uint32_t slot : slots) EXPECT_TRUE(IsCancelled(slot));
    EXPECT_FALSE(IsCancelled(kept, kBrieflyMs)) << "the others' are not";
    EXPECT_EQ(cancelled_.size(), 3u) << "once each";
    for (const uint32_t slot : slots) Finish(slot, StatusCode::kCancelled);
    Finish(kept);
    ASSERT_TRUE(stays.Receive().has_value());
    ExpectAllBack();
  }
};

TEST_F(VanishingClientTest, OverTcpItsQueriesAreCancelled) { ExpectItsQueriesCancelled(); }

TEST_F(VanishingClientTest, OverIpcItsQueriesAreCancelled) {
  server_.listen = {"ipc:///tmp/abacus-vanish-" + std::to_string(getpid()) + ".ipc"};
  ExpectItsQueriesCancelled();
}

}  // namespace
}  // namespace abacus
