// Tensors in leased memory.
#include <gmock/gmock.h>

#include "controller/intake/lease_socket.h"
#include "tests/controller/intake/payload_fixture.h"

namespace abacus {
namespace {

using test::LeaseClient;

constexpr uint64_t kLeaseBytes = 1 << 20;

class LeasedPayloadTest : public PayloadFixture {
 protected:
  void StartWithLeases() {
    auto created = LeaseSocket::Create({kLeaseBytes, 4 * kLeaseBytes}, &leases_);
    ASSERT_TRUE(created) << created.error().message();
    lease_socket_ = std::move(*created);
    Start(16 << 20);
  }
  static protocol::Request Leased(uint64_t id, const LeaseClient& lease, uint64_t offset) {
    protocol::Request request = Wide(id);
    request.inputs[0].region = lease.id;
    request.inputs[0].offset = offset;
    return request;
  }
  // `request` with its outputs in the lease.
  static protocol::Request Into(const LeaseClient& lease, uint64_t offset, uint64_t bytes, protocol::Request request) {
    request.outputs_region = lease.id;
    request.outputs_offset = offset;
    request.outputs_bytes = bytes;
    return request;
  }

  std::unique_ptr<LeaseSocket> lease_socket_;
};

INSTANTIATE_TEST_SUITE_P(Threads, LeasedPayloadTest, testing::Values(1, 2));

TEST_P(LeasedPayloadTest, TensorsGoThroughTheRegionBothWays) {
  StartWithLeases();
  LeaseClient lease(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk);
  Dealer dealer(endpoint());
  const std::string x(kRowBytes, 'q'), y(kRowBytes, 'y');
  lease.Fill(3, x);  // at any alignment
  dealer.Send(Into(lease, 100'001, kRowBytes, Leased(1, lease, 3)));
  const uint32_t slot = NextQuery();
  EXPECT_EQ(Input(slot, 0), x);
  lease.Fill(3, std::string(kRowBytes, 'z'));
  EXPECT_EQ(Input(slot, 0), x) << "nothing that the client does later reaches it";
  WriteOutput(slot, 0, y);
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.status, StatusCode::kOk);
  EXPECT_TRUE(answer->outputs.empty()) << "no frames";
  ASSERT_EQ(answer->reply.outputs.size(), 1u);
  EXPECT_EQ(answer->reply.outputs[0].offset, 100'001u);
  EXPECT_EQ(lease.Read(100'001, kRowBytes), y);
  EXPECT_EQ(lease.Read(100'000, 1), std::string(1, '\0')) << "and nothing around it";
  EXPECT_EQ(lease.Read(100'001 + kRowBytes, 64), std::string(64, '\0'));
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, OutputsLieAtMultiplesOfSixtyFour) {
  ModelSpec spec = image_->config.spec;
  spec.outputs = {{"a", DType::kInt8, Shape{kBatchDim, 65}, {}, 0}, {"b", DType::kInt8, Shape{kBatchDim, 3}, {}, 0}};
  image_ = MakeService(0, 3, spec);
  StartWithLeases();
  LeaseClient lease(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk);
  Dealer dealer(endpoint());
  dealer.Send(Into(lease, 10, 128 + 2, Wide(1)), {std::string(kRowBytes, 'q')});
  ExpectRefused(dealer, 1, StatusCode::kInvalidArgument, "outputs_bytes");
  dealer.Send(Into(lease, 10, 128 + 3, Wide(1)), {std::string(kRowBytes, 'q')});
  const uint32_t slot = NextQuery();
  WriteOutput(slot, 0, std::string(65, 'a'));
  WriteOutput(slot, 1, "bbb");
  Finish(slot);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->reply.outputs.size(), 2u);
  EXPECT_EQ(answer->reply.outputs[0].offset, 10u);
  EXPECT_EQ(answer->reply.outputs[1].offset, 138u);
  EXPECT_EQ(lease.Read(10, 66), std::string(65, 'a') + '\0');
  EXPECT_EQ(lease.Read(137, 5), std::string("\0bbb\0", 5));
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, FramesAreForTheOtherTensorsInOrder) {
  ModelSpec spec = image_->config.spec;
  spec.inputs.push_back({"w", DType::kInt8, Shape{kBatchDim, 2}, {}, 0});
  spec.inputs.push_back({"v", DType::kInt8, Shape{kBatchDim, 2}, {}, 0});
  image_ = MakeService(0, 3, spec);
  StartWithLeases();
  LeaseClient lease(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk);
  lease.Fill(0, "ww");
  Dealer dealer(endpoint());
  protocol::Request request = Wide(1);
  request.inputs.push_back({"w", DType::kInt8, Shape{1, 2}});
  request.inputs.back().region = lease.id;
  request.inputs.back().offset = 0;
  request.inputs.push_back({"v", DType::kInt8, Shape{1, 2}});
  dealer.Send(request, {std::string(kRowBytes, 'q'), "vv"});
  const uint32_t slot = NextQuery();
  EXPECT_EQ(Input(slot, 1), "ww");
  EXPECT_EQ(Input(slot, 2), "vv");
  Finish(slot, StatusCode::kWorkerFailed);
  ASSERT_TRUE(dealer.Receive().has_value());
  request.id = 2;
  dealer.Send(request, {std::string(kRowBytes, 'q')});
  ExpectRefused(dealer, 2, StatusCode::kInvalidArgument, "inputs");
  request.id = 3;
  dealer.Send(request, {std::string(kRowBytes, 'q'), "vv", "vv"});
  ExpectRefused(dealer, 3, StatusCode::kInvalidArgument, "inputs");
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, PlacesOutsideARegionAreRefused) {
  StartWithLeases();
  LeaseClient lease(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk);
  Dealer dealer(endpoint());
  uint64_t id = 0;
  for (const uint64_t offset : {kLeaseBytes - kRowBytes + 1, kLeaseBytes, UINT64_MAX, UINT64_MAX - kRowBytes + 1}) {
    dealer.Send(Leased(++id, lease, offset));
    ExpectRefused(dealer, id, StatusCode::kInvalidArgument, "inputs[0].offset");
    dealer.Send(Into(lease, offset, kRowBytes, Wide(++id)), {std::string(kRowBytes, 'q')});
    ExpectRefused(dealer, id, StatusCode::kInvalidArgument, "outputs_offset");
  }
  protocol::Request request = Leased(++id, lease, 0);
  request.inputs[0].shape = Shape{INT64_MAX, kWide};
  dealer.Send(request);
  ExpectRefused(dealer, id, StatusCode::kInvalidArgument, "inputs[0].shape");
  request.inputs[0].shape = Shape{int64_t{1} << 62, 4};  // their bytes are a multiple of 2^64
  dealer.Send(request);
  ExpectRefused(dealer, id, StatusCode::kInvalidArgument, "inputs[0].shape");
  dealer.Send(Leased(++id, lease, kLeaseBytes - kRowBytes));
  Finish(NextQuery(), StatusCode::kWorkerFailed);
  ASSERT_TRUE(dealer.Receive().has_value()) << "the last place inside";
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, AWrongRegionAndOneThatWasGivenBackAreRefusedAlike) {
  StartWithLeases();
  LeaseClient lease(leases_.path()), given_back(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes / 2), StatusCode::kOk);
  ASSERT_EQ(given_back.Lease(kLeaseBytes / 2), StatusCode::kOk);
  given_back.Close();
  ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] { return leases_.Find(given_back.id) == nullptr; }));
  Dealer dealer(endpoint());
  std::vector<std::string> messages;
  uint64_t id = 0;
  for (const uint64_t region : {given_back.id, lease.id + 1, uint64_t{1}, UINT64_MAX}) {
    protocol::Request request = Leased(++id, lease, 0);
    request.inputs[0].region = region;
    dealer.Send(request);
    const auto answer = dealer.Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.status, StatusCode::kInvalidArgument);
    EXPECT_EQ(answer->reply.field, "inputs[0].region");
    messages.push_back(answer->reply.message);
    request = Wide(++id);
    request.outputs_region = region;
    request.outputs_bytes = kRowBytes;
    dealer.Send(request, {std::string(kRowBytes, 'q')});
    ExpectRefused(dealer, id, StatusCode::kInvalidArgument, "outputs_region");
  }
  EXPECT_THAT(messages, testing::Each(messages.front()));
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, ALeaseMayEndWhileItsQueryIsInFlight) {
  StartWithLeases();
  Dealer dealer(endpoint());
  for (uint64_t id = 1; id <= 20; ++id) {
    LeaseClient lease(leases_.path());
    ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk) << "the one before was given back";
    dealer.Send(Into(lease, 0, kLeaseBytes, Leased(id, lease, 0)));
    const uint32_t slot = NextQuery();
    lease.Close();
    ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] { return leases_.Find(lease.id) == nullptr; }));
    WriteOutput(slot, 0, std::string(kRowBytes, 'y'));
    Finish(slot);
    const auto answer = dealer.Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.status, StatusCode::kOk);
    EXPECT_EQ(lease.Read(0, kRowBytes), std::string(kRowBytes, 'y')) << "the client's mapping is as good as before";
    ASSERT_TRUE(InUseBecomes(0));
    ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] {
      LeaseClient probe(leases_.path());
      return probe.Lease(kLeaseBytes) == StatusCode::kOk;
    })) << "unmapped";
  }
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, NothingIsWrittenForAQueryThatFailed) {
  StartWithLeases();
  LeaseClient lease(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk);
  Dealer dealer(endpoint());
  dealer.Send(Into(lease, 0, kLeaseBytes, Wide(1)), {std::string(kRowBytes, 'q')});
  const uint32_t slot = NextQuery();
  WriteOutput(slot, 0, std::string(kRowBytes, 'y'));
  Finish(slot, StatusCode::kCancelled);
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(answer->reply.outputs.empty());
  EXPECT_EQ(lease.Read(0, kRowBytes), std::string(kRowBytes, '\0'));
  dealer.Send(Wide(2), {std::string(kRowBytes, 'q')});  // the slot again, with frames
  const uint32_t next = NextQuery();
  WriteOutput(next, 0, std::string(kRowBytes, 'n'));
  Finish(next);
  const auto framed = dealer.Receive();
  ASSERT_TRUE(framed.has_value());
  EXPECT_EQ(framed->outputs, std::vector<std::string>{std::string(kRowBytes, 'n')});
  EXPECT_EQ(lease.Read(0, kRowBytes), std::string(kRowBytes, '\0')) << "the place was that of the query before";
  ExpectAllBack();
}

// A client that writes while the server copies: what is checked is what runs.
TEST_P(LeasedPayloadTest, AValueThatChangesUnderTheCheckNeverPasses) {
  StartWithLeases();
  LeaseClient lease(leases_.path());
  ASSERT_EQ(lease.Lease(kLeaseBytes), StatusCode::kOk);
  lease.Fill(kRowBytes - sizeof(int32_t), std::string("\x09\0\0\0", 4));
  std::atomic<bool> done{false};
  std::thread writer([&] {  // through volatile: the race is between processes, and meant
    auto* const codes = reinterpret_cast<volatile int32_t*>(lease.bytes().data());
    for (int32_t i = 0; !done.load(); ++i) codes[kWide - 1] = i % 2 == 0 ? 9 : 1'000'000;
  });
  Dealer dealer(endpoint());
  int accepted = 0, refused = 0;
  for (uint64_t id = 0; id < 2000 && (accepted < 20 || refused < 20); ++id) {
    protocol::Request request = Codes(id);
    request.inputs[0].region = lease.id;
    request.inputs[0].offset = 0;
    dealer.Send(request);
    uint32_t slot = UINT32_MAX;
    std::optional<Dealer::Answer> answer;
    dealer.SetPatience(1);
    ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] {
      if (TakeQuery(&slot)) return true;
      answer = dealer.Receive();
      return answer.has_value();
    }));
    if (answer) {
      EXPECT_EQ(answer->reply.field, "inputs[0]");
      ++refused;
      continue;
    }
    const std::string codes = Input(slot, 0);
    int32_t last = 0;
    std::memcpy(&last, codes.data() + kRowBytes - sizeof(last), sizeof(last));
    EXPECT_EQ(last, 9);
    ++accepted;
    Finish(slot, StatusCode::kWorkerFailed);
    dealer.SetPatience(test::kPatienceMs);
    ASSERT_TRUE(dealer.Receive().has_value());
  }
  done = true;
  writer.join();
  EXPECT_GT(accepted, 0);
  EXPECT_GT(refused, 0);
  ExpectAllBack();
}

TEST_P(LeasedPayloadTest, TheSocketsPathIsTold) {
  StartWithLeases();
  Dealer dealer(endpoint());
  for (const auto type : {protocol::RequestType::kModels, protocol::RequestType::kHealth}) {
    dealer.Send(Ask(type, 1));
    const auto answer = dealer.Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.lease, leases_.path());
  }
  dealer.Send(Synthetic(2));
  Finish(NextQuery());
  const auto answer = dealer.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->reply.lease, "") << "not in every reply";
  ExpectAllBack();
}

// Many at once, with frames and regions in turns, while lanes finish in another order: what ThreadSanitizer looks at.
// Blocks and regions are full of what was there before, and nobody gets any of it.
TEST_P(LeasedPayloadTest, ManyClientsAtOnceGetTheirOwnBytesOnly) {
  limits_.max_queries = 200;
  StartWithLeases();
  std::fill(region_->arena().begin(), region_->arena().end(), std::byte{0xee});  // poison
  constexpr int kClients = 3, kQueries = 100;
  std::atomic<int> good{0};
  std::vector<std::jthread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([this, c, &good] {
      Dealer dealer(endpoint());
      LeaseClient lease(leases_.path());
      if (lease.Lease(3 * 65'536) != StatusCode::kOk) return;
      for (int i = 0; i < kQueries; ++i) {
        const auto id = static_cast<uint64_t>(i);
        const std::string bytes(kRowBytes, static_cast<char>(i * kClients + c));
        const bool leased_in = i % 2 == 0, leased_out = i % 3 != 0;
        protocol::Request request = leased_in ? Leased(id, lease, 65'536) : Wide(id);
        lease.Fill(65'536, leased_in ? bytes : std::string(kRowBytes, '\xdd'));
        lease.Fill(2 * 65'536, std::string(kRowBytes, '\xcc'));
        if (leased_out) request = Into(lease, 2 * 65'536, kRowBytes, request);
        dealer.Send(request, leased_in ? std::vector<std::string>{} : std::vector<std::string>{bytes});
        const auto answer = dealer.Receive();
        if (!answer || answer->reply.status != StatusCode::kOk || answer->reply.id != id) return;
        const std::string got = leased_out ? lease.Read(2 * 65'536, kRowBytes) : answer->outputs.at(0);
        good += got == bytes && lease.Read(2 * 65'536 + kRowBytes, 64) == std::string(64, '\0');
      }
    });
  }
  for (int i = 0; i < kClients * kQueries; ++i) {
    const uint32_t slot = NextQuery();
    if (slot == UINT32_MAX) break;
    WriteOutput(slot, 0, Input(slot, 0));
    Finish(slot);
  }
  clients.clear();
  EXPECT_EQ(good.load(), kClients * kQueries);
  ExpectAllBack();
}

}  // namespace
}  // namespace abacus
