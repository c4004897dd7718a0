// What the front end turns down, and what clients cannot do to each other.
#include "tests/controller/intake/front_end_fixture.h"

namespace abacus {
namespace {

TEST_F(FrontEndTest, RefusesWhatIsNoHeader) {
  Start();
  Dealer dealer(endpoint());
  for (const std::string bytes : {"garbage", "", "\xc1"}) {
    dealer.SendFrames({bytes});
    ExpectRefused(dealer, 0, StatusCode::kInvalidArgument, "header");
  }
  EXPECT_EQ(header().rejected_messages.load(), 3u);
  ExpectAllBack();
}

TEST_F(FrontEndTest, RefusesMoreFramesThanAllowed) {
  limits_.max_frames = 3;
  Start();
  Dealer dealer(endpoint());
  std::string text;
  protocol::EncodeRequest(ImageQuery(9, 1), &text);
  dealer.SendFrames({text, "a", "b", "c", "d"});
  ExpectRefused(dealer, 9, StatusCode::kInvalidArgument, "inputs");
  dealer.Send(ImageQuery(10, 1), {std::string(16, 'q')});
  Finish(NextQuery());  // what was dropped is not in the way
  ASSERT_TRUE(dealer.Receive().has_value());
  ExpectAllBack();
}

TEST_F(FrontEndTest, ATensorOverTheLimitIsRefusedForItself) {
  limits_.max_frame_bytes = 1000;
  limits_.max_message_bytes = 4000;
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(1));
  const uint32_t before = NextQuery();
  dealer.Send(ImageQuery(2, 1), {std::string(1001, 'q')});
  auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 2u);
  EXPECT_EQ(answer->reply.status, StatusCode::kInvalidArgument);
  EXPECT_EQ(answer->reply.field, "inputs[0]");
  EXPECT_EQ(answer->reply.message, "the tensor has 1001 bytes; this server takes at most 1000 (max_frame_mib)");
  dealer.Send(ImageQuery(3, 1), {std::string(8000, 'q')});
  ExpectRefused(dealer, 3, StatusCode::kInvalidArgument, "inputs[0]");
  Finish(before);
  answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value()) << "the query beside it";
  EXPECT_EQ(answer->reply.id, 1u);
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  EXPECT_EQ(header().closed_connections.load(), 0u);
  ExpectAllBack();
}

TEST_F(FrontEndTest, AMessageOverTheLimitIsRefusedForItself) {
  limits_.max_frame_bytes = 1000;
  limits_.max_message_bytes = 4000;
  Start();
  Dealer dealer(endpoint());
  dealer.Send(ImageQuery(1, 1), std::vector<std::string>(5, std::string(900, 'q')));
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 1u);
  EXPECT_EQ(answer->reply.status, StatusCode::kInvalidArgument);
  EXPECT_EQ(answer->reply.field, "inputs");
  EXPECT_NE(answer->reply.message.find("at most 4000 (max_message_mib)"), std::string::npos) << answer->reply.message;
  ExpectAllBack();
}

TEST_F(FrontEndTest, AFrameFarOverTheLimitEndsItsConnection) {
  limits_.max_frame_bytes = 1000;
  limits_.max_message_bytes = 4000;
  Start();
  Dealer dealer(endpoint()), other(endpoint());
  other.Send(Synthetic(1));
  const uint32_t slot = NextQuery();
  dealer.Send(ImageQuery(2, 1), {std::string(2 * 4000 + protocol::kMaxHeaderBytes + 1, 'q')});
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return header().closed_connections.load() == 1; }));
  Finish(slot);
  EXPECT_TRUE(other.Receive().has_value()) << "the others do not notice";
  dealer.Send(Synthetic(3));  // ZeroMQ has connected it again
  Finish(NextQuery());
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 3u);
  ExpectAllBack();
}

TEST_F(FrontEndTest, RefusesAnUnknownModel) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(3, "nobody"));
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.id, 3u);
  EXPECT_EQ(answer->reply.status, StatusCode::kUnknownModel);
  EXPECT_EQ(answer->reply.field, "model");
  EXPECT_EQ(answer->reply.model, "");
  ExpectAllBack();
}

TEST_F(FrontEndTest, RefusesTensorsThatDoNotFit) {
  Start();
  Dealer dealer(endpoint());
  dealer.Send(ImageQuery(1, 2), {std::string(16, 'q')});
  ExpectRefused(dealer, 1, StatusCode::kInvalidArgument, "inputs[0]");
  const int64_t most = 4 * static_cast<int64_t>(kMaxQueryParts);
  dealer.Send(ImageQuery(2, most + 1), {std::string(static_cast<size_t>(most + 1) * 16, 'q')});
  ExpectRefused(dealer, 2, StatusCode::kInvalidArgument, "inputs");
  ExpectAllBack();
}

TEST_F(FrontEndTest, RefusesAnIdThatIsInFlight) {
  Start();
  Dealer dealer(endpoint()), other(endpoint());
  dealer.Send(Synthetic(1));
  const uint32_t slot = NextQuery();
  dealer.Send(Synthetic(1));
  ExpectRefused(dealer, 1, StatusCode::kInvalidArgument, "id");
  other.Send(Synthetic(1));  // ids are each client's own
  Finish(NextQuery());
  ASSERT_TRUE(other.Receive().has_value());
  Finish(slot);
  ASSERT_TRUE(dealer.Receive().has_value());
  dealer.Send(Synthetic(1));  // free again
  Finish(NextQuery());
  const auto again = dealer.Receive();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->reply.status, StatusCode::kOk);
  ExpectAllBack();
}

TEST_F(FrontEndTest, EachClientHasAQuotaOfQueries) {
  limits_.max_client_queries = 2;
  Start();
  Dealer greedy(endpoint()), modest(endpoint());
  for (uint64_t id = 1; id <= 3; ++id) greedy.Send(Synthetic(id));
  const uint32_t first = NextQuery(), second = NextQuery();
  ExpectRefused(greedy, 3, StatusCode::kOverloaded, "");
  modest.Send(Synthetic(1));
  const uint32_t others = NextQuery();
  Finish(first);
  ASSERT_TRUE(greedy.Receive().has_value());
  ASSERT_TRUE(InUseBecomes(2)) << "the refusal and the first reply have left";
  greedy.Send(Synthetic(4));
  const uint32_t fourth = NextQuery();
  for (const uint32_t slot : {second, others, fourth}) Finish(slot);
  ExpectAllBack();
}

TEST_F(FrontEndTest, EachClientHasAQuotaOfBytes) {
  limits_.max_client_bytes = 2 * TensorArena::kMinBlockBytes;
  Start();
  Dealer greedy(endpoint()), modest(endpoint());
  for (uint64_t id = 1; id <= 3; ++id) greedy.Send(ImageQuery(id, 1), {std::string(16, 'q')});
  const uint32_t first = NextQuery(), second = NextQuery();
  ExpectRefused(greedy, 3, StatusCode::kOverloaded, "");
  modest.Send(ImageQuery(1, 1), {std::string(16, 'q')});
  const uint32_t others = NextQuery();
  for (const uint32_t slot : {first, second, others}) Finish(slot);
  ExpectAllBack();
}

TEST_F(FrontEndTest, AllClientsShareAQuotaOfQueries) {
  limits_.max_queries = 2;
  Start();
  Dealer a(endpoint()), b(endpoint()), late(endpoint());
  a.Send(Synthetic(1));
  b.Send(Synthetic(1));
  const uint32_t first = NextQuery(), second = NextQuery();
  late.Send(Synthetic(1));
  ExpectRefused(late, 1, StatusCode::kOverloaded, "");
  Finish(first);
  Finish(second);
  ExpectAllBack();
}

TEST_F(FrontEndTest, AFullArenaIsOverload) {
  Start(2 * TensorArena::kMinBlockBytes);
  Dealer dealer(endpoint());
  for (uint64_t id = 1; id <= 3; ++id) dealer.Send(ImageQuery(id, 1), {std::string(16, 'q')});
  const uint32_t first = NextQuery(), second = NextQuery();
  ExpectRefused(dealer, 3, StatusCode::kOverloaded, "");
  EXPECT_EQ(header().arena_used_bytes.load(), 2 * TensorArena::kMinBlockBytes);
  Finish(first);
  Finish(second);
  ASSERT_TRUE(InUseBecomes(0));
  dealer.Send(ImageQuery(4, 1), {std::string(16, 'q')});
  Finish(NextQuery());
  ExpectAllBack();
}

TEST_F(FrontEndTest, TensorsWaitForTheArena) {
  Start(1 << 20, 128, /*arena_ready=*/false);
  Dealer dealer(endpoint());
  dealer.Send(ImageQuery(1, 1), {std::string(16, 'q')});
  ExpectRefused(dealer, 1, StatusCode::kOverloaded, "");
  front_end_->SetArenaReady();
  dealer.Send(ImageQuery(2, 1), {std::string(16, 'q')});
  Finish(NextQuery());
  ExpectAllBack();
}

TEST_F(FrontEndTest, NothingIsAcceptedThatCouldNotBeAnswered) {
  Start(1 << 20, /*slots=*/2);
  Dealer dealer(endpoint());
  for (uint64_t id = 1; id <= 3; ++id) dealer.Send(ImageQuery(id, 1), {std::string(16, 'q')});
  const uint32_t first = NextQuery(), second = NextQuery();
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return header().rejected_messages.load() == 1; }))
      << "no slot is left, not even for a refusal";
  EXPECT_EQ(header().arena_used_bytes.load(), 2 * TensorArena::kMinBlockBytes) << "its block went back";
  Finish(first);
  Finish(second);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(dealer.Receive().has_value());
  ExpectAllBack();
}

TEST_F(FrontEndTest, AClientThatVanishesLeavesNothingBehind) {
  Start();
  for (int i = 0; i < 10; ++i) {
    uint32_t slot = 0;
    {
      Dealer dealer(endpoint());
      dealer.Send(ImageQuery(1, 4), {std::string(4 * 16, 'q')});
      slot = NextQuery();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // for ZeroMQ to notice
    Finish(slot);
  }
  EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return header().dropped_replies.load() > 0; }));
  Dealer dealer(endpoint());
  dealer.Send(Synthetic(1));
  Finish(NextQuery());
  EXPECT_TRUE(dealer.Receive().has_value()) << "the others do not notice";
  ExpectAllBack();
}

}  // namespace
}  // namespace abacus
