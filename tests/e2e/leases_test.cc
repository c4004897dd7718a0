// Memory that clients share with a real controller: their tensors in it, their deaths, and nobody else's bytes.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "tests/controller/intake/lease_client.h"
#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr int64_t kWide = 50'000;  // elements of an image, so that they go to the intake threads
constexpr uint64_t kImageBytes = kWide * 4;

ControllerProcess::Options WideImages(double base_us = 0, const std::string& server = "intake_threads = 2\n") {
  ControllerProcess::Options options = FakeServices("free", base_us);
  options.server += server;
  options.config = "[limits]\nmax_frame_mib = 4\nmax_message_mib = 8\nmax_client_mib = 8\n" + options.config;
  for (int i = 0; i < 2; ++i) {
    Replace("[\"batch\", 1000]", "[\"batch\", " + std::to_string(kWide) + "]", &options.files["image.toml"]);
  }
  return options;
}

std::string LeasePath(const ControllerProcess& controller) {
  return (controller.directory() / controller.name() / "lease.sock").string();
}

// Names an input at `in` of the region, and the place of its output at `out`.
protocol::Request LeasedImage(uint64_t id, const LeaseClient& lease, uint64_t in, uint64_t out) {
  protocol::Request request;
  request.id = id;
  request.model = "image";
  request.inputs.push_back({"x", DType::kFloat32, {1, kWide}});
  request.inputs[0].region = lease.id;
  request.inputs[0].offset = in;
  request.outputs_region = lease.id;
  request.outputs_offset = out;
  request.outputs_bytes = kImageBytes;
  return request;
}

bool AllZero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{}; });
}

TEST(LeasesE2eTest, ALeasedQueryIsAnsweredInItsRegion) {
  ControllerProcess controller(WideImages());
  ASSERT_EQ(controller.error(), "");
  const auto client = ConnectTo(controller.tcp());
  ASSERT_NE(client, nullptr);
  Result<LeasedMemory> memory = client->Lease(kMiB);
  ASSERT_TRUE(memory) << memory.error().message();
  for (int i = 1; i <= 20; ++i) {
    std::fill_n(memory->bytes().begin(), kImageBytes, static_cast<std::byte>(i));
    InferRequest request;
    request.model = "image";
    request.inputs.push_back(memory->At("x", DType::kFloat32, {1, kWide}, 0).value());
    request.outputs = memory->Block(kMiB / 2, kImageBytes).value();
    const auto reply = client->Infer(request);
    ASSERT_TRUE(reply) << reply.error().message();
    ASSERT_TRUE(reply->status.ok()) << reply->status.message();
    ASSERT_EQ(reply->outputs.size(), 1u);
    const auto output = memory->bytes().subspan(kMiB / 2, kImageBytes);
    EXPECT_TRUE(std::all_of(output.begin(), output.end(), [&](std::byte b) { return b == static_cast<std::byte>(i); }));
  }
}

TEST(LeasesE2eTest, ClientsThatAreKilledGiveTheirLeasesBack) {
  // All leases together are bounded by 16 times 8 MiB, so 40 that were lost would be noticed.
  ControllerProcess controller(WideImages(/*base_us=*/500));
  ASSERT_EQ(controller.error(), "");
  const std::string path = LeasePath(controller), address = controller.tcp();
  for (int i = 0; i < 40; ++i) {
    int sent[2];
    ASSERT_EQ(pipe(sent), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      LeaseClient lease(path);
      bool ok = lease.Lease(8 * kMiB) == StatusCode::kOk && AllZero(lease.bytes());
      RawClient raw(address);
      if (ok) {
        std::fill(lease.bytes().begin(), lease.bytes().end(), std::byte{0x5a});
        for (uint64_t id = 1; id <= 8; ++id) raw.Send(LeasedImage(id, lease, id * 100'000, 4 * kMiB), {});
        ok = i % 4 != 0 || raw.Receive().has_value();
      }
      const char told = ok ? 1 : 0;
      [[maybe_unused]] const ssize_t written = write(sent[1], &told, 1);
      for (;;) pause();
    }
    char told = 0;
    EXPECT_EQ(read(sent[0], &told, 1), 1);
    EXPECT_EQ(told, 1) << "client " << i << " got no memory, or memory that somebody had used";
    usleep(static_cast<useconds_t>(i % 5) * 2000);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    close(sent[0]);
    close(sent[1]);
  }
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return controller.region().header().arena_used_bytes.load() == 0; }))
      << "blocks of theirs are left";
  LeaseClient lease(path);
  EXPECT_EQ(lease.Lease(8 * kMiB), StatusCode::kOk);
  EXPECT_TRUE(AllZero(lease.bytes()));
}

TEST(LeasesE2eTest, NobodyGetsAnotherClientsBytes) {
  ControllerProcess controller(WideImages());
  ASSERT_EQ(controller.error(), "");
  constexpr int kClients = 3, kQueries = kSanitized ? 60 : 300;
  std::atomic<int> good{0};
  std::vector<std::jthread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      LeaseClient lease(LeasePath(controller));
      if (lease.Lease(kMiB) != StatusCode::kOk) return;
      RawClient raw(controller.tcp());
      for (int i = 0; i < kQueries; ++i) {
        const std::string bytes(kImageBytes, static_cast<char>(1 + c + kClients * (i % 60)));
        std::fill(lease.bytes().begin(), lease.bytes().end(), std::byte{0xfe});  // poison, of this client
        protocol::Request request = LeasedImage(static_cast<uint64_t>(i), lease, 0, kMiB / 2);
        if (i % 2 == 0) {
          lease.Fill(0, bytes);
          raw.Send(request, {});
        } else {
          request.inputs[0].region = 0;
          request.inputs[0].offset = std::nullopt;
          raw.Send(request, {bytes});
        }
        const auto reply = raw.Receive(kPatienceMs);
        if (!reply || reply->id != request.id || reply->status != StatusCode::kOk) return;
        const auto rest = lease.bytes().subspan(kMiB / 2 + kImageBytes);
        good += lease.Read(kMiB / 2, kImageBytes) == bytes &&
                std::all_of(rest.begin(), rest.end(), [](std::byte byte) { return byte == std::byte{0xfe}; });
      }
    });
  }
  clients.clear();
  EXPECT_EQ(good.load(), kClients * kQueries);
}

TEST(LeasesE2eTest, AnIdOutOfRangeInARegionReachesNoWorker) {
  ControllerProcess controller(WideImages());
  ASSERT_EQ(controller.error(), "");
  LeaseClient lease(LeasePath(controller));
  ASSERT_EQ(lease.Lease(kMiB), StatusCode::kOk);
  const int64_t bad = 1'000'000;
  std::memcpy(lease.bytes().data() + 8, &bad, sizeof(bad));
  RawClient raw(controller.tcp());
  protocol::Request request;
  request.id = 1;
  request.model = "text";
  request.inputs.push_back({"ids", DType::kInt64, {1, 8}});
  request.inputs[0].region = lease.id;
  request.inputs[0].offset = 0;
  raw.Send(request, {});
  const auto reply = raw.Receive();
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->status, StatusCode::kInvalidArgument);
  EXPECT_EQ(reply->field, "inputs[0]");
  EXPECT_EQ(controller.stats(1).accepted.load(), 0u);
}

TEST(LeasesE2eTest, AcceptedQueriesThatAreBeingCopiedAreAnsweredAtTheEnd) {
  ControllerProcess controller(WideImages());
  ASSERT_EQ(controller.error(), "");
  constexpr int kQueries = 12;  // 16 times 512 KiB of the client's 8 MiB
  RawClient raw(controller.tcp());
  const std::string bytes(kImageBytes, 'q');
  for (uint64_t id = 0; id < kQueries; ++id) {
    protocol::Request request = ImageHeader(id);
    request.inputs[0].shape = Shape{1, kWide};
    raw.Send(request, {bytes});
  }
  std::set<uint64_t> answered;
  const auto take = [&] {
    const auto reply = raw.Receive(kPatienceMs);
    ASSERT_TRUE(reply.has_value()) << answered.size() << " of " << kQueries << " were answered";
    EXPECT_TRUE(answered.insert(reply->id).second) << "twice";
    EXPECT_TRUE(reply->status == StatusCode::kOk || reply->status == StatusCode::kShuttingDown) << reply->message;
  };
  take();
  controller.Signal(SIGTERM);
  while (answered.size() < kQueries && !testing::Test::HasFatalFailure()) take();
  EXPECT_EQ(controller.WaitExit(30), 0);
}

TEST(LeasesE2eTest, AServerWithoutLeasesSaysSo) {
  ControllerProcess controller(WideImages(0, "leases = false\n"));
  ASSERT_EQ(controller.error(), "");
  EXPECT_FALSE(std::filesystem::exists(LeasePath(controller)));
  const auto client = ConnectTo(controller.tcp());
  ASSERT_NE(client, nullptr);
  const auto health = client->Health();
  ASSERT_TRUE(health);
  EXPECT_EQ(health->lease, "");
  EXPECT_FALSE(client->Lease(4096));
}

TEST(LeasesE2eTest, TheSocketGoesWithItsController) {
  ControllerProcess controller(WideImages());
  ASSERT_EQ(controller.error(), "");
  LeaseClient lease(LeasePath(controller));
  ASSERT_EQ(lease.Lease(4096), StatusCode::kOk);
  controller.Signal(SIGTERM);
  EXPECT_EQ(controller.WaitExit(30), 0) << "an open lease holds nothing up";
  EXPECT_FALSE(std::filesystem::exists(LeasePath(controller)));
  EXPECT_TRUE(lease.Ended());
}

TEST(LeasesE2eTest, AfterAKillTheSocketIsTakenOver) {
  ControllerProcess controller(WideImages());
  ASSERT_EQ(controller.error(), "");
  controller.Signal(SIGKILL);
  controller.WaitExit(30);
  ASSERT_TRUE(std::filesystem::exists(LeasePath(controller)));
  ASSERT_TRUE(controller.StartAgain());
  EXPECT_EQ(LeaseClient(LeasePath(controller)).Lease(4096), StatusCode::kOk);
}

}  // namespace
}  // namespace abacus::test
