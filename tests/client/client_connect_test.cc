// Clients: how they connect, lose their server and end.
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "tests/client/client_fixture.h"

namespace abacus {
namespace {

TEST(ClientConnect, ErrorsNameTheAddress) {
  ClientOptions options = QuickOptions();
  options.connect_timeout = 50ms;
  for (const char* bad : {"", "nonsense", "tcp://", "udp-lite://x:1"}) {
    const auto client = Client::Connect(bad, options);
    ASSERT_FALSE(client) << bad;
    EXPECT_THAT(client.error().message(), HasSubstr("'" + std::string(bad) + "'"));
    EXPECT_EQ(client.error().code(), StatusCode::kInvalidArgument);
  }
  const auto nobody = Client::Connect("tcp://127.0.0.1:1", options);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(nobody.error().message(), HasSubstr("tcp://127.0.0.1:1 "));
}

TEST(ClientConnect, OptionsThatMeanNothingAreRefused) {
  const FakeServer server;
  const std::vector<std::pair<std::string, std::function<void(ClientOptions&)>>> cases = {
      {"connect_timeout", [](ClientOptions& o) { o.connect_timeout = 0ms; }},
      {"connect_timeout", [](ClientOptions& o) { o.connect_timeout = std::chrono::milliseconds::min(); }},
      {"receive_timeout", [](ClientOptions& o) { o.receive_timeout = -1ms; }},
      {"linger", [](ClientOptions& o) { o.linger = -1ms; }},
      {"linger", [](ClientOptions& o) { o.linger = std::chrono::milliseconds::max(); }},
      {"reconnect_interval", [](ClientOptions& o) { o.reconnect_interval = 0ms; }},
      {"max_outstanding", [](ClientOptions& o) { o.max_outstanding = 0; }},
      {"high_water_mark", [](ClientOptions& o) { o.high_water_mark = -1; }},
      {"max_frame_bytes", [](ClientOptions& o) { o.max_frame_bytes = 0; }},
  };
  for (const auto& [name, change] : cases) {
    ClientOptions options = QuickOptions();
    change(options);
    const auto client = Client::Connect(server.address(), options);
    ASSERT_FALSE(client) << name;
    EXPECT_EQ(client.error().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(client.error().message(), HasSubstr(name));
  }
}

TEST(ClientConnect, LongTimeLimitsWaitOn) {
  for (const auto limit : {kNoTimeout, std::chrono::milliseconds(1'000'000'000'000), kNoTimeout - 1ms}) {
    FakeServer server(FakeServer::Ignore);
    ClientOptions options = QuickOptions();
    options.connect_timeout = options.receive_timeout = limit;
    const auto client = ConnectTo(server, options);
    auto reply = client->Submit(Query(4));
    server.WaitForQueries(1);
    EXPECT_EQ(reply.wait_for(20ms), std::future_status::timeout);
    FakeServer::Echo(server, server.queries()[0]);
    EXPECT_EQ(ValueOf(reply.get()), 4);
  }
}

TEST(ClientConnect, ReachesIpv6AddressesAndNames) {
  FakeServer server(FakeServer::Echo, "tcp://[::1]:*");
  const auto client = ConnectTo(server);
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(ValueOf(client->Infer(Query(1))), 1);

  FakeServer local;
  const std::string port = local.address().substr(local.address().rfind(':'));
  const auto by_name = Client::Connect("tcp://localhost" + port, QuickOptions());
  ASSERT_TRUE(by_name) << by_name.error().message();
  EXPECT_EQ(ValueOf((*by_name)->Infer(Query(2))), 2);
}

TEST(ClientConnect, AnUnknownNameIsAnErrorAtOnce) {
  const auto start = Clock::now();
  ClientOptions options = QuickOptions();
  options.connect_timeout = 60s;
  const auto client = Client::Connect("tcp://nowhere.invalid:5570", options);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(client.error().message(), HasSubstr("'nowhere.invalid' has no address"));
  EXPECT_LT(Clock::now() - start, 30s);
}

TEST(ClientServerLoss, TheConnectionComesBack) {
  auto server = std::make_unique<FakeServer>(FakeServer::Ignore);
  const std::string address = server->address();
  ClientOptions options = QuickOptions();
  options.receive_timeout = 500ms;
  const auto client = ConnectTo(*server, options);
  auto lost = client->Submit(Query(1));
  server->WaitForQueries(1);
  server.reset();
  const auto reply = lost.get();
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), StatusCode::kTimeout) << "the server had it: it may have run";
  const auto unsent = client->Infer(Query(2));
  ASSERT_FALSE(unsent);
  EXPECT_EQ(unsent.error().code(), StatusCode::kUnavailable) << "it was never sent: safe to repeat";
  EXPECT_THAT(unsent.error().message(), HasSubstr("was not sent"));

  FakeServer second(FakeServer::Echo, address);
  Result<InferReply> again = client->Infer(Query(3));
  for (int i = 0; i < 10 && !again; ++i) again = client->Infer(Query(3));
  EXPECT_EQ(ValueOf(again), 3);
  for (const auto& query : second.queries()) EXPECT_EQ(query.frames[0][0], 3) << "nothing is sent twice";
}

TEST(ClientServerLoss, QueriesSubmittedMeanwhileAreSentOnReconnection) {
  auto server = std::make_unique<FakeServer>();
  const std::string address = server->address();
  const auto client = ConnectTo(*server);
  server.reset();
  std::vector<std::future<Result<InferReply>>> replies;
  std::this_thread::sleep_for(200ms);  // the client notices the loss; what it sends before that may be lost
  for (int64_t i = 0; i < 20; ++i) replies.push_back(client->Submit(Query(i)));
  const FakeServer second(FakeServer::Echo, address);
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(ValueOf(replies[static_cast<size_t>(i)].get()), i);
}

TEST(ClientClose, OutstandingQueriesFailAtOnce) {
  FakeServer server(FakeServer::Ignore);
  auto client = ConnectTo(server);
  std::vector<std::future<Result<InferReply>>> replies;
  for (int64_t i = 0; i < 50; ++i) replies.push_back(client->Submit(Query(i)));
  const auto start = Clock::now();
  client.reset();
  EXPECT_LT(Clock::now() - start, 2s);
  for (auto& reply : replies) {
    const auto result = reply.get();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), StatusCode::kUnavailable);
    EXPECT_THAT(result.error().message(), HasSubstr("was closed"));
  }
}

TEST(ClientClose, IsBoundedWithUnsentBytes) {
  auto server = std::make_unique<FakeServer>();
  auto client = ConnectTo(*server);
  server.reset();
  for (int i = 0; i < 10; ++i) {
    InferRequest request;
    request.model = "m";
    request.inputs = {Ints("x", std::vector<int64_t>(100'000))};
    client->SubmitAsync(std::move(request), [](const Result<InferReply>&) {});
  }
  const auto start = Clock::now();
  client.reset();
  EXPECT_LT(Clock::now() - start, 2s);
}

}  // namespace
}  // namespace abacus
