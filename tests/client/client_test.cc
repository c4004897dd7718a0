#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/client/fake_server.h"

namespace abacus {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr auto kSoon = 10s;  // a bound for waits that must end, never waited for in a passing test

ClientOptions QuickOptions() {
  ClientOptions options;
  options.connect_timeout = 10s;
  options.receive_timeout = 10s;
  options.reconnect_interval = 10ms;
  return options;
}
std::unique_ptr<Client> ConnectTo(const FakeServer& server, const ClientOptions& options = QuickOptions()) {
  auto client = Client::Connect(server.address(), options);
  EXPECT_TRUE(client) << client.error().message();
  return client ? std::move(*client) : nullptr;
}
Tensor Ints(const std::string& name, std::vector<int64_t> values) {
  const auto bytes = std::as_bytes(std::span(values));
  return Tensor::Own(name, DType::kInt64, {static_cast<int64_t>(values.size())}, {bytes.begin(), bytes.end()});
}
InferRequest Query(int64_t value) {
  InferRequest request;
  request.model = "m";
  request.inputs = {Ints("x", {value})};
  return request;
}
int64_t ValueOf(const Result<InferReply>& reply) {
  if (!reply || !reply->status.ok() || reply->outputs.empty()) return -1;
  return reply->outputs[0].ToVector<int64_t>().at(0);
}
// Waits until a counter reaches a value: replies that nobody waits for can be seen only there.
void WaitFor(const Client& client, uint64_t ClientCounters::*counter, uint64_t value) {
  const auto limit = Clock::now() + kSoon;
  while (client.counters().*counter < value && Clock::now() < limit) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(client.counters().*counter, value);
}

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

// The child tells what it saw by its exit code; it must not run the parent's tests or destructors.
TEST(ClientProcesses, AForkedChildIsToldToMakeItsOwnClient) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer lets no thread start in a child of a process with several";
#endif
  FakeServer server;
  auto client = ConnectTo(server);
  ASSERT_EQ(ValueOf(client->Infer(Query(1))), 1);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // rather than hang
    const auto refused = client->Infer(Query(2));
    const bool told = !refused && refused.error().code() == StatusCode::kUnavailable &&
                      refused.error().message().find("make a client of its own in the child") != std::string::npos;
    const bool health_told = !client->Health();
    client.reset();
    auto own = Client::Connect(server.address(), QuickOptions());
    const bool own_works = own && ValueOf((*own)->Infer(Query(3))) == 3;
    if (own) own->reset();
    _exit(told && health_told && own_works ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(ValueOf(client->Infer(Query(4))), 4) << "the parent's connection goes on";
}

TEST(ClientThreads, ManySubmitters) {
  constexpr int kThreads = 8;
  constexpr int64_t kQueries = 200;
  FakeServer server;
  const auto client = ConnectTo(server);
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&client, &wrong, t] {
        std::array<std::future<Result<InferReply>>, kQueries> replies;
        for (int64_t i = 0; i < kQueries; ++i) replies[static_cast<size_t>(i)] = client->Submit(Query(t * 1000 + i));
        for (int64_t i = 0; i < kQueries; ++i) {
          if (ValueOf(replies[static_cast<size_t>(i)].get()) != t * 1000 + i) ++wrong;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(client->counters().sent, 1u + kThreads * kQueries);
  EXPECT_EQ(client->counters().replies, 1u + kThreads * kQueries);
}

TEST(ClientThreads, CallbacksMaySubmitButNotBlock) {
  FakeServer server;
  const auto client = ConnectTo(server);
  std::promise<Result<InferReply>> second;
  std::promise<Result<InferReply>> blocking;
  client->SubmitAsync(Query(1), [&](const Result<InferReply>&) {
    blocking.set_value(client->Infer(Query(2)));
    client->SubmitAsync(Query(3), [&second](Result<InferReply> reply) { second.set_value(std::move(reply)); });
  });
  EXPECT_EQ(blocking.get_future().get().error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ValueOf(second.get_future().get()), 3);
}

TEST(ClientThreads, TwoServersAreKeptApart) {
  const auto answer_with = [](int64_t value) {
    return [value](FakeServer& self, const FakeServer::Incoming& query) {
      protocol::Reply reply;
      reply.outputs = {{"y", DType::kInt64, {1}}};
      self.Reply(query, reply, {std::string(reinterpret_cast<const char*>(&value), sizeof(value))});
    };
  };
  FakeServer first(answer_with(100));
  FakeServer second(answer_with(200));
  const auto to_first = ConnectTo(first);
  const auto to_second = ConnectTo(second);
  for (int i = 0; i < 20; ++i) {
    auto a = to_first->Submit(Query(i));
    auto b = to_second->Submit(Query(i));
    EXPECT_EQ(ValueOf(a.get()), 100);
    EXPECT_EQ(ValueOf(b.get()), 200);
  }
  EXPECT_EQ(first.queries().size(), 20u);
  EXPECT_EQ(to_first->address(), first.address());
}

}  // namespace
}  // namespace abacus
