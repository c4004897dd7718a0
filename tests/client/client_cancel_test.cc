// Clients: queries that are cancelled get one reply each, whenever that happens.
#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/client/client_fixture.h"

namespace abacus {
namespace {

// What the server says of a query that it drops.
void AnswerCancelled(FakeServer& server, const FakeServer::Incoming& cancel) {
  protocol::Reply reply;
  reply.status = StatusCode::kCancelled;
  reply.message = "cancelled by its client";
  server.Reply(cancel, std::move(reply));
}

TEST(ClientCancel, TheServerIsToldAndItsAnswerIsTheReply) {
  FakeServer server(FakeServer::Ignore);
  server.OnCancel(AnswerCancelled);
  const auto client = ConnectTo(server);
  auto kept = client->Submit(Query(1));
  auto cancelled = client->Submit(Query(2));
  server.WaitForQueries(2);
  EXPECT_NE(kept.id(), cancelled.id());
  client->Cancel(cancelled.id());
  const auto reply = cancelled.get();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply->status.code(), StatusCode::kCancelled);
  EXPECT_EQ(server.cancels(), std::vector<uint64_t>{server.queries()[1].header.id});
  FakeServer::Echo(server, server.queries()[0]);
  EXPECT_EQ(ValueOf(kept.get()), 1) << "the other one does not notice";
}

TEST(ClientCancel, AQueryThatWasDoneFirstKeepsItsReply) {
  FakeServer server(FakeServer::Ignore);
  server.OnCancel([](FakeServer& self, const FakeServer::Incoming&) { FakeServer::Echo(self, self.queries()[0]); });
  const auto client = ConnectTo(server);
  auto reply = client->Submit(Query(3));
  server.WaitForQueries(1);
  client->Cancel(reply.id());
  EXPECT_EQ(ValueOf(reply.get()), 3);
}

TEST(ClientCancel, TwiceAndTooLateAndOfNobodyDoNothing) {
  FakeServer server(FakeServer::Ignore);
  const auto client = ConnectTo(server);
  auto reply = client->Submit(Query(4));
  server.WaitForQueries(1);
  for (int i = 0; i < 3; ++i) client->Cancel(reply.id());
  server.WaitForCancels(1);
  FakeServer::Echo(server, server.queries()[0]);
  const uint64_t id = reply.id();
  EXPECT_EQ(ValueOf(reply.get()), 4);
  for (const uint64_t other : {id, id + 1000, uint64_t{0}, ~uint64_t{0}}) client->Cancel(other);
  ASSERT_TRUE(client->Health()) << "what was cancelled before it is through";
  EXPECT_EQ(server.cancels().size(), 1u);
  EXPECT_EQ(client->counters().malformed, 0u);
}

TEST(ClientCancel, AQuestionOfTheClientItselfIsNoQuery) {
  FakeServer server(FakeServer::Ignore);
  const auto client = ConnectTo(server);
  const uint64_t next = client->SubmitAsync(Query(1), [](const Result<InferReply>&) {}) + 1;
  std::atomic<bool> done{false};
  const std::jthread canceller([&] {
    while (!done) {
      for (uint64_t id = next; id < next + 50; ++id) client->Cancel(id);
    }
  });
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(client->Health());
  done = true;
}

TEST(ClientCancel, WhatWasNotSentYetNeverIs) {
  auto server = std::make_unique<FakeServer>();
  const std::string address = server->address();
  const auto client = ConnectTo(*server);
  server.reset();
  std::this_thread::sleep_for(200ms);  // the client notices the loss
  auto cancelled = client->Submit(Query(5));
  auto kept = client->Submit(Query(6));
  client->Cancel(cancelled.id());
  const auto reply = cancelled.get();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply->status.code(), StatusCode::kCancelled);
  EXPECT_THAT(reply->status.message(), HasSubstr("before it was sent"));
  const FakeServer second(FakeServer::Echo, address);
  EXPECT_EQ(ValueOf(kept.get()), 6);
  ASSERT_EQ(second.queries().size(), 1u);
  EXPECT_TRUE(second.cancels().empty());
}

TEST(ClientCancel, OnADeadConnectionTheTimeLimitEndsTheQuery) {
  auto server = std::make_unique<FakeServer>(FakeServer::Ignore);
  ClientOptions options = QuickOptions();
  options.receive_timeout = 500ms;
  const auto client = ConnectTo(*server, options);
  auto reply = client->Submit(Query(7));
  server->WaitForQueries(1);
  server.reset();
  client->Cancel(reply.id());
  const auto result = reply.get();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), StatusCode::kTimeout);
}

TEST(ClientCancel, AllOfThemAtOnce) {
  FakeServer server(FakeServer::Ignore);
  server.OnCancel(AnswerCancelled);
  const auto client = ConnectTo(server);
  std::vector<PendingReply> replies;
  for (int64_t i = 0; i < 50; ++i) replies.push_back(client->Submit(Query(i)));
  client->CancelAll();
  for (PendingReply& reply : replies) EXPECT_EQ(reply.get()->status.code(), StatusCode::kCancelled);
  const size_t before = server.queries().size();
  auto later = client->Submit(Query(51));
  server.WaitForQueries(before + 1);
  EXPECT_EQ(later.wait_for(20ms), std::future_status::timeout) << "it came after";
}

// An older server refuses the cancellation under the id of the query, and answers the query as well.
TEST(ClientCancel, AServerThatDoesNotKnowCancellationsStillAnswersTheQuery) {
  FakeServer server(FakeServer::Ignore);
  server.OnCancel([](FakeServer& self, const FakeServer::Incoming& cancel) {
    protocol::Reply reply;
    reply.status = StatusCode::kInvalidArgument;
    reply.field = "type";
    reply.message = "unknown type 'cancel'; one of infer, models, health";
    self.Reply(cancel, reply);
  });
  const auto client = ConnectTo(server);
  auto reply = client->Submit(Query(8));
  server.WaitForQueries(1);
  client->Cancel(reply.id());
  server.WaitForCancels(1);
  EXPECT_EQ(reply.wait_for(50ms), std::future_status::timeout);
  FakeServer::Echo(server, server.queries()[0]);
  EXPECT_EQ(ValueOf(reply.get()), 8);
}

TEST(ClientCancel, FromACallbackAndFromManyThreadsEveryQueryHasOneReply) {
  FakeServer server([](FakeServer& self, const FakeServer::Incoming& query) {
    if (query.header.id % 2 == 0) FakeServer::Echo(self, query);
  });
  server.OnCancel([](FakeServer& self, const FakeServer::Incoming& cancel) {
    if (cancel.header.id % 2 != 0) AnswerCancelled(self, cancel);
  });
  const auto client = ConnectTo(server);
  constexpr int kThreads = 4, kQueries = 200;
  std::atomic<int> replies{0}, wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kQueries; ++i) {
          const uint64_t id = client->SubmitAsync(Query(i), [&, i](const Result<InferReply>& reply) {
            ++replies;
            if (!reply || (ValueOf(reply) != i && reply->status.code() != StatusCode::kCancelled)) ++wrong;
            client->Cancel(1);
          });
          client->Cancel(id);
        }
      });
    }
  }
  const auto limit = Clock::now() + kSoon;
  while (replies < kThreads * kQueries && Clock::now() < limit) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(replies, kThreads * kQueries);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(client->counters().duplicates, 0u);
}

}  // namespace
}  // namespace abacus
