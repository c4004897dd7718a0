// Clients that vanish, flood or never read harm only themselves.
#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

TEST(Clients, AVanishedClientFreesEverythingItHeld) {
  ControllerProcess controller(FakeServices("free", 20'000));
  ASSERT_EQ(controller.error(), "");
  for (int i = 0; i < 20; ++i) {
    RawClient raw(controller.tcp());
    for (uint64_t id = 1; id <= 5; ++id) raw.Send(ImageHeader(id), {std::string(4000, 'x')});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // gone with queries in flight
  }
  const SegmentHeader& header = controller.region().header();
  EXPECT_TRUE(Eventually(
      kPatienceMs, [&] { return header.arena_used_bytes.load() == 0 && controller.stats(0).accepted.load() > 20; }));
  EXPECT_GT(header.dropped_replies.load(), 0u) << "dropped replies are counted";
  const auto client = ConnectTo(controller.tcp());
  const InferRequest request = ImageQuery(1);
  EXPECT_TRUE(Echoes(client->Infer(request), request));
}

TEST(Clients, OneThatNeverReadsIsBounded) {
  ControllerProcess controller(FakeServices("free", 0, "abandon = false\n",
                                            "[limits]\nmax_frame_mib = 1\nmax_message_mib = 1\nmax_client_mib = 1\n"
                                            "max_client_queries = 100\n"));
  ASSERT_EQ(controller.error(), "");
  RawClient hoarder(controller.tcp());
  std::atomic<bool> stop{false};
  std::atomic<int> sent{0};
  std::thread flood([&] {
    for (uint64_t id = 1; !stop; ++id) {
      if (hoarder.TrySend(ImageHeader(id), std::string(4000, 'x'))) sent.fetch_add(1);
    }
  });
  const auto client = ConnectTo(controller.tcp());
  uint64_t peak_bytes = 0;
  int wrong = 0;
  const auto one_more = [&](int i) {
    const InferRequest request = TextQuery(1000 + i);
    wrong += !Echoes(client->Infer(request), request);
    peak_bytes = std::max(peak_bytes, controller.region().header().arena_used_bytes.load());
  };
  int queries = 0;
  while (queries < 500 || (sent < 5000 && queries < 100'000)) one_more(queries++);
  stop = true;
  flood.join();
  EXPECT_EQ(wrong, 0) << "the others are served";
  EXPECT_GE(sent.load(), 5000);
  EXPECT_LE(peak_bytes, uint64_t{2} << 20) << "one client holds at most max_client_mib";
}

TEST(Clients, ExceedingTheirOwnLimitIsTypedOverload) {
  ControllerProcess controller(FakeServices("free", 50'000, "abandon = false\n", "[limits]\nmax_client_queries = 3\n"));
  ASSERT_EQ(controller.error(), "");
  RawClient greedy(controller.tcp()), modest(controller.tcp());
  for (uint64_t id = 1; id <= 4; ++id) greedy.Send(ImageHeader(id), {std::string(4000, 'x')});
  const auto refused = greedy.Receive();
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->id, 4u);
  EXPECT_EQ(refused->status, StatusCode::kOverloaded);
  modest.Send(ImageHeader(1), {std::string(4000, 'x')});
  const auto served = modest.Receive();
  ASSERT_TRUE(served.has_value());
  EXPECT_EQ(served->status, StatusCode::kOk);
}

TEST(Clients, AFullArenaIsTypedOverload) {
  ControllerProcess::Options options = FakeServices("free", 20'000);
  options.server = "arena_mib = 1\n";  // 128 blocks of 8 KiB
  ControllerProcess controller(options);
  ASSERT_EQ(controller.error(), "");
  RawClient raw(controller.tcp());
  constexpr int kSent = 200;
  for (uint64_t id = 1; id <= kSent; ++id) raw.Send(ImageHeader(id), {std::string(4000, 'x')});
  int ok = 0, overloaded = 0;
  for (int i = 0; i < kSent; ++i) {
    const auto reply = raw.Receive(20'000);
    ASSERT_TRUE(reply.has_value());
    ok += reply->status == StatusCode::kOk;
    overloaded += reply->status == StatusCode::kOverloaded;
  }
  EXPECT_EQ(ok + overloaded, kSent);
  EXPECT_GT(overloaded, 0);
  EXPECT_GE(ok, 128);
}

}  // namespace
}  // namespace abacus::test
