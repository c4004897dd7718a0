// Clients in several threads, in forked processes, and several in one.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "tests/client/client_fixture.h"

namespace abacus {
namespace {

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
