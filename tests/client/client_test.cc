// Clients: queries, their replies and their limits.
#include "client/client.h"

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/client/client_fixture.h"

namespace abacus {
namespace {

TEST(ClientInfer, RoundTripWithTensors) {
  FakeServer server;
  const auto client = ConnectTo(server);
  InferRequest request;
  request.model = "m";
  request.qos_us = 5'000;
  std::vector<int64_t> large(100'000, 3);
  request.inputs = {Ints("small", {1, 2, 3}), Ints("large", large), Ints("empty", {})};
  const auto reply = client->Infer(request);
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_TRUE(reply->status.ok());
  EXPECT_EQ(reply->model, "m");
  EXPECT_EQ(reply->timing.executed_us, 20u);
  ASSERT_EQ(reply->outputs.size(), 3u);
  EXPECT_EQ(reply->outputs[0].name, "small");
  EXPECT_EQ(reply->outputs[0].ToVector<int64_t>(), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(reply->outputs[1].ToVector<int64_t>(), large);
  EXPECT_EQ(reply->outputs[2].bytes.size(), 0u);
  EXPECT_EQ(server.queries()[0].header.qos_us, 5'000u);
}

TEST(ClientInfer, OutputsOutliveReplyAndClient) {
  FakeServer server;
  auto client = ConnectTo(server);
  const Tensor output = client->Infer(Query(77))->outputs[0];
  client.reset();
  EXPECT_EQ(output.ToVector<int64_t>()[0], 77);
}

TEST(ClientInfer, BorrowedBytesMayChangeAfterSubmit) {
  FakeServer server;
  const auto client = ConnectTo(server);
  std::vector<int64_t> values(10'000, 5);
  InferRequest request;
  request.model = "m";
  request.inputs = {{"x", DType::kInt64, {10'000}, std::as_bytes(std::span(values)), nullptr}};
  auto reply = client->Submit(std::move(request));
  std::fill(values.begin(), values.end(), 6);
  EXPECT_EQ(reply.get()->outputs[0].ToVector<int64_t>(), std::vector<int64_t>(10'000, 5));
}

TEST(ClientInfer, SharedBytesAreReleasedAfterUse) {
  FakeServer server;
  auto client = ConnectTo(server);
  InferRequest request;
  request.model = "m";
  request.inputs = {Ints("x", std::vector<int64_t>(100'000, 1))};
  const std::weak_ptr<const void> owner = request.inputs[0].owner;
  ASSERT_TRUE(client->Infer(std::move(request)));
  client.reset();
  EXPECT_TRUE(owner.expired());
}

TEST(ClientInfer, SyntheticQueries) {
  FakeServer server;
  const auto client = ConnectTo(server);
  InferRequest request;
  request.model = "m";
  request.synthetic = {4, 64};
  ASSERT_TRUE(client->Infer(request));
  const protocol::Request header = server.queries()[0].header;
  EXPECT_TRUE(header.synthetic);
  EXPECT_EQ(header.batch, 4u);
  EXPECT_EQ(header.sequence, 64u);
}

TEST(ClientInfer, ServerErrorsArriveWithTheirTiming) {
  FakeServer server([](FakeServer& self, const FakeServer::Incoming& query) {
    protocol::Reply reply;
    reply.status = StatusCode::kDeadlineUnreachable;
    reply.message = "predicted 9000 us";
    reply.field = "qos_us";
    reply.timing.predicted_us = 9'000;
    self.Reply(query, reply);
  });
  const auto client = ConnectTo(server);
  const auto reply = client->Infer(Query(1));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status.code(), StatusCode::kDeadlineUnreachable);
  EXPECT_EQ(reply->status.message(), "predicted 9000 us");
  EXPECT_EQ(reply->field, "qos_us");
  EXPECT_EQ(reply->timing.predicted_us, 9'000u);
}

TEST(ClientInfer, BadRequestsAreRefusedHere) {
  FakeServer server;
  const auto client = ConnectTo(server);
  const auto why = [&](InferRequest request) {
    const auto reply = client->Infer(std::move(request));
    EXPECT_FALSE(reply);
    EXPECT_EQ(reply.error().code(), StatusCode::kInvalidArgument);
    return reply.error().message();
  };
  InferRequest request = Query(1);
  request.inputs[0].shape = {2};
  EXPECT_EQ(why(request), "input 'x': int64[2] takes 16 bytes, not 8");
  request.inputs[0].shape = {-1};
  EXPECT_THAT(why(request), HasSubstr("[-1]"));
  request = Query(1);
  request.inputs[0].name = "";
  EXPECT_THAT(why(request), HasSubstr("a name has"));
  request.inputs.assign(protocol::kMaxTensors + 1, Ints("x", {1}));
  EXPECT_THAT(why(request), HasSubstr("at most 16 inputs"));
  request = Query(1);
  request.synthetic = {1, 0};
  EXPECT_THAT(why(request), HasSubstr("synthetic"));
  request = Query(1);
  request.model = "";
  EXPECT_THAT(why(request), HasSubstr("model"));
  request = Query(1);
  for (const uint64_t qos_us : {kLongestQosUs + 1, uint64_t{1} << 63, ~uint64_t{0}}) {
    request.qos_us = qos_us;
    EXPECT_THAT(why(request), HasSubstr("a latency target is from 1us to 1h"));
  }
  request.qos_us = 0;
  request.model = std::string(protocol::kMaxNameBytes + 1, 'm');
  EXPECT_THAT(why(request), HasSubstr("model name"));
  EXPECT_TRUE(server.queries().empty());
}

TEST(ClientInfer, ModelsAndHealth) {
  FakeServer server;
  std::vector<protocol::ModelDescription> described(1);
  described[0].name = "m";
  described[0].inputs = {{"x", DType::kInt64, {"batch"}, true, 0, 9}};
  described[0].batch_sizes = {1, 2};
  described[0].qos_us = 5'000;
  server.SetModels(described);
  server.SetReady(false);
  const auto client = ConnectTo(server);
  const auto models = client->Models();
  ASSERT_TRUE(models);
  EXPECT_EQ(*models, described);
  const auto health = client->Health();
  ASSERT_TRUE(health);
  EXPECT_FALSE(health->ready);
  ASSERT_EQ(health->services.size(), 1u);
  EXPECT_EQ(health->services[0].worker_pid, 123);
}

TEST(ClientReplies, OutOfOrder) {
  std::vector<FakeServer::Incoming> held;
  FakeServer server([&held](FakeServer& self, const FakeServer::Incoming& query) {
    held.push_back(query);
    if (held.size() < 5) return;
    for (size_t i = held.size(); i-- > 0;) FakeServer::Echo(self, held[i]);
  });
  const auto client = ConnectTo(server);
  std::vector<std::future<Result<InferReply>>> replies;
  for (int64_t i = 0; i < 5; ++i) replies.push_back(client->Submit(Query(i)));
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(ValueOf(replies[static_cast<size_t>(i)].get()), i);
}

TEST(ClientReplies, ATimeoutFailsOnlyItsQueryAndTheLateReplyIsDropped) {
  FakeServer server([](FakeServer& self, const FakeServer::Incoming& query) {
    if (query.frames[0][0] != 1) FakeServer::Echo(self, query);
  });
  ClientOptions options = QuickOptions();
  options.receive_timeout = 300ms;
  const auto client = ConnectTo(server, options);
  auto slow = client->Submit(Query(1));
  EXPECT_EQ(ValueOf(client->Infer(Query(2))), 2);
  const auto reply = slow.get();
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), StatusCode::kTimeout);
  EXPECT_EQ(reply.error().message(), "no reply to query to model 'm' from " + server.address() + " within 300ms");
  EXPECT_EQ(ValueOf(client->Infer(Query(3))), 3);
  FakeServer::Echo(server, server.queries()[0]);
  WaitFor(*client, &ClientCounters::late, 1);
  EXPECT_EQ(client->counters().timeouts, 1u);
  EXPECT_EQ(client->counters().duplicates, 0u);
}

TEST(ClientReplies, DuplicatesAreDropped) {
  FakeServer server([](FakeServer& self, const FakeServer::Incoming& query) {
    FakeServer::Echo(self, query);
    FakeServer::Echo(self, query);
  });
  const auto client = ConnectTo(server);
  EXPECT_EQ(ValueOf(client->Infer(Query(1))), 1);
  WaitFor(*client, &ClientCounters::duplicates, 1);
}

TEST(ClientReplies, MalformedOnesFailTheirQueryOrAreCounted) {
  FakeServer server([](FakeServer& self, const FakeServer::Incoming& query) {
    protocol::Reply reply;
    reply.outputs = {{"y", DType::kInt64, {1}}};
    switch (query.frames[0][0]) {
      case 1:  // no frame for its output
        return self.Reply(query, reply);
      case 2:  // a frame of the wrong size
        return self.Reply(query, reply, {"1234567"});
      case 3:  // too many frames
        return self.Reply(query, reply, std::vector<std::string>(100, "12345678"));
      case 4: {  // a header that does not decode, with a readable id
        std::string header = "\x82\xa1v\x01\xa2id\xcd??";
        header[header.size() - 2] = static_cast<char>(query.header.id >> 8);
        header[header.size() - 1] = static_cast<char>(query.header.id);
        return self.SendRaw(query.client, {header});
      }
      default:  // noise, then the reply
        self.SendRaw(query.client, {"\xff\xff"});
        self.SendRaw(query.client, {""});
        FakeServer::Echo(self, query);
    }
  });
  const auto client = ConnectTo(server);
  for (int64_t i = 1; i <= 4; ++i) {
    const auto reply = client->Infer(Query(i));
    ASSERT_FALSE(reply) << i;
    EXPECT_EQ(reply.error().code(), StatusCode::kInternal) << i;
    EXPECT_THAT(reply.error().message(), HasSubstr("malformed reply")) << i;
  }
  EXPECT_EQ(ValueOf(client->Infer(Query(5))), 5);
  EXPECT_EQ(client->counters().malformed, 6u);
}

TEST(ClientLimits, OutstandingQueriesAreBounded) {
  FakeServer server(FakeServer::Ignore);
  ClientOptions options = QuickOptions();
  options.max_outstanding = 3;
  const auto client = ConnectTo(server, options);
  std::vector<std::future<Result<InferReply>>> replies;
  for (int64_t i = 0; i < 3; ++i) replies.push_back(client->Submit(Query(i)));
  const auto refused = client->Infer(Query(4));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kOverloaded);
  server.WaitForQueries(3);
  FakeServer::Echo(server, server.queries()[0]);
  EXPECT_EQ(ValueOf(replies[0].get()), 0);
  auto accepted = client->Submit(Query(5));
  server.WaitForQueries(4);
}

TEST(ClientLimits, AQueryThatTheServerDoesNotTakeIsRefusedForItself) {
  FakeServer server(FakeServer::Ignore);
  server.SetLimits(1'000, 2'500);
  const auto client = ConnectTo(server);
  std::vector<std::future<Result<InferReply>>> waiting;
  const auto numbers = [](const std::string& name, size_t count) { return Ints(name, std::vector<int64_t>(count)); };
  for (size_t i = 0; i < 66; ++i) {
    InferRequest request{.model = "m", .inputs = {numbers("x", 125)}};
    waiting.push_back(client->Submit(std::move(request)));
  }
  const auto frame = client->Infer({.model = "m", .inputs = {numbers("x", 1), numbers("y", 126)}});
  ASSERT_FALSE(frame);
  EXPECT_EQ(frame.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(frame.error().message(), HasSubstr("input 'y' has 1008 bytes; the server takes 1000 "));
  const auto message =
      client->Infer({.model = "m", .inputs = {numbers("x", 125), numbers("y", 125), numbers("z", 125)}});
  ASSERT_FALSE(message);
  EXPECT_THAT(message.error().message(), HasSubstr("the server takes 2500 "));
  server.WaitForQueries(66);
  for (const auto& query : server.queries()) FakeServer::Echo(server, query);
  for (auto& reply : waiting) EXPECT_EQ(ValueOf(reply.get()), 0);
}

TEST(ClientLimits, AreLearnedFromTheNextAnswer) {
  FakeServer server;
  server.SetLimits(7, 0);
  const auto client = ConnectTo(server);
  EXPECT_FALSE(client->Infer(Query(1)));
  server.SetLimits(8, 0);
  EXPECT_EQ(client->Health()->max_frame_bytes, 8u);
  EXPECT_EQ(ValueOf(client->Infer(Query(2))), 2);
}

}  // namespace
}  // namespace abacus
