// Queries that are taken back, and queries of clients that have gone, at a real controller.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

constexpr double kSlowUs = 5'000;

uint64_t Cancelled(ControllerProcess& controller, size_t service) {
  return controller.stats(service).replies[static_cast<size_t>(StatusCode::kCancelled)].load();
}
bool IsEmpty(ControllerProcess& controller) {
  return Eventually(kPatienceMs, [&] { return controller.region().header().arena_used_bytes.load() == 0; });
}

TEST(CancelE2eTest, EveryQueryHasOneReplyAndTheOthersDoNotNotice) {
  ControllerProcess controller(FakeServices("free", kSlowUs));
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp(), 60);
  ASSERT_NE(client, nullptr);
  constexpr int kQueries = 60;
  std::vector<InferRequest> requests;
  for (int i = 0; i < kQueries; ++i) requests.push_back(ImageQuery(1000 + i, 1 + i % 4));
  std::vector<PendingReply> replies;
  for (const InferRequest& request : requests) replies.push_back(client->Submit(request));
  for (int i = 0; i < kQueries; i += 2) client->Cancel(replies[static_cast<size_t>(i)].id());
  int cancelled = 0;
  for (int i = 0; i < kQueries; ++i) {
    const auto reply = replies[static_cast<size_t>(i)].get();
    ASSERT_TRUE(reply) << i << ": " << reply.error().message();
    if (i % 2 == 0 && reply->status.code() == StatusCode::kCancelled) {
      ++cancelled;
      EXPECT_TRUE(reply->outputs.empty());
    } else {
      EXPECT_TRUE(Echoes(reply, requests[static_cast<size_t>(i)])) << i << ": " << reply->status.ToString();
    }
  }
  EXPECT_GT(cancelled, kQueries / 4) << "most of them waited";
  EXPECT_EQ(client->counters().duplicates, 0u);
  EXPECT_TRUE(IsEmpty(controller));
}

TEST(CancelE2eTest, NobodyTakesBackAnothersQuery) {
  ControllerProcess controller(FakeServices("free", kSlowUs));
  ASSERT_EQ(controller.error(), "");
  RawClient one(controller.tcp()), other(controller.tcp());
  const std::string row(4000, 'q');
  for (uint64_t id = 1; id <= 10; ++id) one.Send(ImageHeader(id), {row});
  protocol::Request cancel;
  cancel.type = protocol::RequestType::kCancel;
  for (cancel.id = 0; cancel.id <= 20; ++cancel.id) other.Send(cancel, {});
  for (int i = 0; i < 10; ++i) {
    const auto reply = one.Receive(kPatienceMs);
    ASSERT_TRUE(reply.has_value());
    EXPECT_EQ(reply->status, StatusCode::kOk) << reply->message;
  }
  EXPECT_FALSE(other.Receive(200).has_value()) << "a cancel has no reply";
  EXPECT_EQ(Cancelled(controller, 0), 0u);
}

TEST(CancelE2eTest, WhatVanishedClientsWantedIsNotRun) {
  ControllerProcess controller(FakeServices("free", kSlowUs));
  ASSERT_EQ(controller.error(), "");
  constexpr uint64_t kQueries = 100;
  const std::string row(4000, 'q');
  for (const std::string& address : {controller.tcp(), controller.ipc()}) {
    const uint64_t before = Cancelled(controller, 0), accepted = controller.stats(0).accepted.load();
    {
      RawClient vanishing(address);
      for (uint64_t id = 1; id <= kQueries; ++id) vanishing.Send(ImageHeader(id), {row});
      ASSERT_TRUE(Eventually(kPatienceMs, [&] { return controller.stats(0).accepted.load() == accepted + kQueries; }));
    }
    EXPECT_TRUE(IsEmpty(controller));
    EXPECT_GT(Cancelled(controller, 0) - before, kQueries / 2) << address;
    const auto client = ConnectTo(address);
    ASSERT_NE(client, nullptr);
    const InferRequest request = ImageQuery(1000);
    EXPECT_TRUE(Echoes(client->Infer(request), request));
  }
}

// Cancels, kills of workers, clients that vanish: each query that is still waited for has exactly one reply, its own.
TEST(CancelE2eTest, CancelsAndKillsLeaveExactlyOneReply) {
  ControllerProcess controller(FakeServices("free", 200));
  ASSERT_EQ(controller.error(), "");
  constexpr int kClients = 3, kQueries = kSanitized ? 200 : 1000, kWindow = 20;
  std::atomic<int> answered{0}, ok{0}, wrong{0}, duplicates{0};
  std::atomic<bool> done{false};
  std::jthread killer([&] {
    while (!done.load()) {
      usleep(100'000);
      const pid_t worker = controller.worker_pid(0);
      if (worker > 0) kill(worker, SIGKILL);
    }
  });
  std::jthread vanisher([&] {
    while (!done.load()) {
      RawClient raw(controller.tcp());
      for (uint64_t id = 1; id <= 30; ++id) raw.Send(ImageHeader(id), {std::string(4000, 'v')});
      usleep(5'000);
    }
  });
  std::vector<std::jthread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      const auto client = ConnectTo(controller.tcp(), 60);
      if (client == nullptr) return;
      std::vector<std::pair<InferRequest, PendingReply>> window;
      for (int i = 0; i < kQueries; i += kWindow) {
        window.clear();
        for (int k = 0; k < kWindow; ++k) {
          InferRequest request = ImageQuery(1000 + c * kQueries + i + k, 1 + (i + k) % 4);
          PendingReply reply = client->Submit(request);
          window.emplace_back(std::move(request), std::move(reply));
        }
        for (int k = 0; k < kWindow; k += 3) client->Cancel(window[static_cast<size_t>(k)].second.id());
        for (auto& [request, pending] : window) {
          const auto reply = pending.get();
          if (!reply) continue;  // counted as missing
          ++answered;
          ok += reply->status.ok();
          wrong += reply->status.ok() && !Echoes(reply, request);
        }
      }
      duplicates += static_cast<int>(client->counters().duplicates);
    });
  }
  clients.clear();
  done = true;
  killer.join();
  vanisher.join();
  EXPECT_EQ(answered.load(), kClients * kQueries);
  EXPECT_GT(ok.load(), kClients * kQueries / 10) << "else it shows little";
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(duplicates.load(), 0);
  EXPECT_TRUE(IsEmpty(controller));
}

}  // namespace
}  // namespace abacus::test
