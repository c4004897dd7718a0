// Clients that name their connections (ZeroMQ routing ids): the same name again, and twice.
#include <list>

#include "tests/controller/intake/front_end_fixture.h"

namespace abacus {
namespace {

constexpr int kBrieflyMs = 200;

class NamedClientsTest : public FrontEndTest {
 protected:
  // The query that this dealer sends is accepted; its reply is still to come.
  uint32_t Submit(Dealer& dealer, uint64_t id) {
    dealer.Send(Synthetic(id));
    return NextQuery();
  }
  bool QueryComes(int within_ms) {
    return test::Eventually(within_ms, [&] { return channel_->submitted.read_available() > 0; });
  }
  zmq::context_t shared_;
};

// ZeroMQ ignores for ever who comes with a name that it has not forgotten yet.
TEST_F(NamedClientsTest, OneThatConnectsAgainIsServedAtOnce) {
  Start();
  for (int i = 0; i < 100; ++i) {
    Dealer dealer(&shared_, endpoint(), "same");
    const uint32_t slot = Submit(dealer, 1);
    ASSERT_NE(slot, UINT32_MAX) << "connection " << i << " was ignored";
    Finish(slot);
    ASSERT_TRUE(dealer.Receive().has_value()) << i;
  }
  ExpectAllBack();
}

TEST_F(NamedClientsTest, OneThatConnectsAgainGetsNoOldReply) {
  Start();
  for (const bool asks_first : {true, false}) {
    std::list<Dealer> dealers;
    dealers.emplace_back(&shared_, endpoint(), "same");
    const uint32_t old = Submit(dealers.back(), 1);
    dealers.clear();
    dealers.emplace_back(&shared_, endpoint(), "same");
    const uint64_t dropped = header().dropped_replies.load();
    uint32_t slot = UINT32_MAX;
    if (asks_first) {
      slot = Submit(dealers.back(), 1);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(kBrieflyMs));  // it is connected, and has said nothing
    }
    Finish(old, StatusCode::kWorkerFailed, "of the query before");
    EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return header().dropped_replies.load() == dropped + 1; }));
    if (!asks_first) slot = Submit(dealers.back(), 1);
    Finish(slot);
    const auto answer = dealers.back().Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.status, StatusCode::kOk) << answer->reply.message;
    dealers.back().SetPatience(kBrieflyMs);
    EXPECT_FALSE(dealers.back().Receive().has_value());
  }
  ExpectAllBack();
}

TEST_F(NamedClientsTest, WhatWasSentBeforeTheEndIsNotAnsweredToTheNext) {
  Start(1 << 20, 512);  // a refusal needs a slot, too
  for (int i = 0; i < 20; ++i) {
    {
      Dealer before(&shared_, endpoint(), "same");
      const uint32_t slot = Submit(before, 1);  // the connection stands
      for (uint64_t id = 2; id < 60; ++id) before.Send(Synthetic(id));
      Finish(slot, StatusCode::kWorkerFailed, "of the connection before");
    }
    Dealer after(&shared_, endpoint(), "same");
    for (uint64_t id = 1; id < 60; ++id) after.Send(Synthetic(id, "nobody"));
    for (uint64_t id = 1; id < 60; ++id) {
      for (uint32_t slot = 0; TakeQuery(&slot);) Finish(slot, StatusCode::kWorkerFailed);
      const auto answer = after.Receive();
      ASSERT_TRUE(answer.has_value()) << id;
      EXPECT_EQ(answer->reply.id, id);
      EXPECT_EQ(answer->reply.status, StatusCode::kUnknownModel) << "the reply to a query of the connection before";
    }
    for (uint32_t slot = 0; TakeQuery(&slot);) Finish(slot, StatusCode::kWorkerFailed);
  }
  ExpectAllBack();
}

TEST_F(NamedClientsTest, ASecondOfTheSameNameNeitherGetsNorDisturbsTheFirstOnesReplies) {
  Start();
  Dealer first(&shared_, endpoint(), "same");
  const uint32_t slot = Submit(first, 1);
  std::list<Dealer> dealers;
  Dealer& second = dealers.emplace_back(&shared_, endpoint(), "same");
  second.SetPatience(kBrieflyMs);
  for (uint64_t id = 1; id <= 20; ++id) second.Send(Synthetic(id));
  EXPECT_FALSE(QueryComes(kBrieflyMs)) << "ZeroMQ serves the first of a name only";
  Finish(slot);
  auto answer = first.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  EXPECT_FALSE(second.Receive().has_value());

  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return header().closed_connections.load() > 0; }))
      << "it is told, instead of being ignored for ever";
  Finish(Submit(first, 2));
  answer = first.Receive();
  ASSERT_TRUE(answer.has_value()) << "the first one goes on";
  EXPECT_EQ(answer->reply.id, 2u);
  ExpectAllBack();
}

TEST_F(NamedClientsTest, TheSecondOfANameIsServedOnceTheFirstHasGone) {
  Start();
  std::list<Dealer> dealers;
  Dealer& first = dealers.emplace_back(&shared_, endpoint(), "same");
  Finish(Submit(first, 1));
  ASSERT_TRUE(first.Receive().has_value());
  Dealer second(&shared_, endpoint(), "same");
  for (uint64_t id = 1; id <= 20; ++id) second.Send(Synthetic(id));  // ignored
  EXPECT_FALSE(QueryComes(kBrieflyMs));
  dealers.clear();
  // It is cut off, ZeroMQ connects it again, and then what it sends arrives.
  ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] {
    second.Send(Synthetic(100));
    return QueryComes(kBrieflyMs);
  }));
  Finish(NextQuery());
  ASSERT_TRUE(second.Receive().has_value());
  for (uint32_t slot = 0; TakeQuery(&slot);) Finish(slot);
  ExpectAllBack();
}

TEST_F(NamedClientsTest, NamesOfTheirOwnDisturbNobody) {
  Start();
  Dealer one(&shared_, endpoint(), "one"), two(&shared_, endpoint(), "two"), nameless(&shared_, endpoint(), "");
  for (Dealer* dealer : {&one, &two, &nameless}) {
    Finish(Submit(*dealer, 1));
    const auto answer = dealer->Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  }
  ExpectAllBack();
}

}  // namespace
}  // namespace abacus
