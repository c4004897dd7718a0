// Clients: tensors in memory that is shared with the server are named, not sent, and belong to one query at a time.
#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "client/lease.h"
#include "tests/client/client_fixture.h"
#include "tests/client/fake_lease_server.h"

namespace abacus {
namespace {

constexpr int64_t kElements = 8;
constexpr uint64_t kTensorBytes = kElements * sizeof(int64_t);

class ClientLease : public ::testing::Test {
 protected:
  ClientLease() {
    server_.SetLease(leases_.path());
    client_ = ConnectTo(server_);
  }

  LeasedMemory Lease(uint64_t bytes) {
    auto memory = client_->Lease(bytes);
    EXPECT_TRUE(memory) << memory.error().message();
    return std::move(*memory);
  }
  static void Fill(const LeasedMemory& memory, uint64_t offset, int64_t value) {
    const std::vector<int64_t> values(kElements, value);
    std::memcpy(memory.bytes().data() + offset, values.data(), kTensorBytes);
  }
  static InferRequest QueryAt(const LeasedMemory& memory, uint64_t offset) {
    InferRequest request;
    request.model = "m";
    request.inputs = {*memory.At("x", DType::kInt64, {kElements}, offset)};
    return request;
  }
  // Doubles the input that lies in a region, into the query's block or into a frame.
  void AnswerDoubled(FakeServer& server, const FakeServer::Incoming& query) {
    const protocol::Request& asked = query.header;
    const auto input = leases_.Region(asked.inputs[0].region).subspan(*asked.inputs[0].offset, kTensorBytes);
    std::vector<int64_t> values(kElements);
    std::memcpy(values.data(), input.data(), kTensorBytes);
    for (int64_t& value : values) value *= 2;
    protocol::Reply reply;
    reply.outputs = {{"y", DType::kInt64, {kElements}}};
    if (asked.outputs_region == 0) {
      return server.Reply(query, reply, {std::string(reinterpret_cast<const char*>(values.data()), kTensorBytes)});
    }
    reply.outputs[0].offset = asked.outputs_offset;
    std::memcpy(leases_.Region(asked.outputs_region).data() + asked.outputs_offset, values.data(), kTensorBytes);
    server.Reply(query, reply);
  }

  std::atomic<bool> hold_{false};  // queries are not answered
  FakeLeaseServer leases_;
  FakeServer server_{[this](FakeServer& server, const FakeServer::Incoming& query) {
    if (hold_) return;
    AnswerDoubled(server, query);
  }};
  std::unique_ptr<Client> client_;
};

TEST_F(ClientLease, InputsAreNamedAndNotSent) {
  const LeasedMemory memory = Lease(4096);
  ASSERT_GE(memory.bytes().size(), 4096u);
  EXPECT_TRUE(memory.Alive());
  Fill(memory, 128, 21);
  const auto reply = client_->Infer(QueryAt(memory, 128));
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply->outputs.at(0).ToVector<int64_t>(), std::vector<int64_t>(kElements, 42));
  const FakeServer::Incoming query = server_.queries()[0];
  EXPECT_TRUE(query.frames.empty());
  EXPECT_NE(query.header.inputs[0].region, 0u);
  EXPECT_EQ(query.header.inputs[0].offset, 128u);
}

TEST_F(ClientLease, OutputsAreWrittenToTheBlock) {
  const LeasedMemory memory = Lease(4096);
  Fill(memory, 0, 4);
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(1024, 256);
  const auto reply = client_->Infer(std::move(request));
  ASSERT_TRUE(reply) << reply.error().message();
  ASSERT_EQ(reply->outputs.size(), 1u);
  EXPECT_EQ(reply->outputs[0].ToVector<int64_t>(), std::vector<int64_t>(kElements, 8));
  EXPECT_EQ(reply->outputs[0].bytes.data(), memory.bytes().data() + 1024) << "in place";
  const protocol::Request header = server_.queries()[0].header;
  EXPECT_EQ(header.outputs_offset, 1024u);
  EXPECT_EQ(header.outputs_bytes, 256u);
}

TEST_F(ClientLease, OutputsAreInputsOfTheNextQuery) {
  const LeasedMemory memory = Lease(4096);
  Fill(memory, 0, 3);
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(64, 64);
  for (int i = 0; i < 3; ++i) {
    auto reply = client_->Infer(request);
    ASSERT_TRUE(reply) << reply.error().message();
    request.inputs = {reply->outputs.at(0)};
    request.inputs[0].name = "x";
  }
  EXPECT_EQ(request.inputs[0].ToVector<int64_t>()[0], 3 * 2 * 2 * 2);
  for (const auto& query : server_.queries()) EXPECT_TRUE(query.frames.empty());
}

TEST_F(ClientLease, NamedAndSentTensorsMix) {
  hold_ = true;
  const LeasedMemory memory = Lease(4096);
  InferRequest request = QueryAt(memory, 64);
  request.inputs.insert(request.inputs.begin(), Ints("before", {1}));
  request.inputs.push_back(Ints("after", {2}));
  auto reply = client_->Submit(std::move(request));
  server_.WaitForQueries(1);
  const FakeServer::Incoming query = server_.queries()[0];
  ASSERT_EQ(query.frames.size(), 2u);
  EXPECT_EQ(query.frames[0][0], 1);
  EXPECT_EQ(query.frames[1][0], 2);
  EXPECT_TRUE(query.header.inputs[0].has_frame());
  EXPECT_FALSE(query.header.inputs[1].has_frame());
}

TEST_F(ClientLease, PlacesThatDoNotLieInsideAreRefusedHere) {
  const LeasedMemory memory = Lease(4096);
  const uint64_t size = memory.bytes().size();
  for (const uint64_t offset : {size - kTensorBytes + 1, size, ~uint64_t{0}, ~uint64_t{0} - kTensorBytes + 1}) {
    const auto tensor = memory.At("x", DType::kInt64, {kElements}, offset);
    ASSERT_FALSE(tensor) << offset;
    EXPECT_EQ(tensor.error().code(), StatusCode::kInvalidArgument);
    EXPECT_FALSE(memory.Block(offset, kTensorBytes)) << offset;
  }
  EXPECT_TRUE(memory.At("x", DType::kInt64, {kElements}, size - kTensorBytes));
  EXPECT_FALSE(memory.At("x", DType::kInt64, {-1}, 0));
  EXPECT_FALSE(memory.Block(0, 0));
  EXPECT_FALSE(memory.Block(1, ~uint64_t{0}));
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(0, 64);
  request.outputs.offset = size;  // by hand
  EXPECT_EQ(client_->Infer(std::move(request)).error().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(server_.queries().empty());
}

TEST_F(ClientLease, LivesAsLongAsAnythingRefersToIt) {
  hold_ = true;
  auto memory = std::make_unique<LeasedMemory>(Lease(4096));
  Fill(*memory, 0, 5);
  auto reply = client_->Submit(QueryAt(*memory, 0));
  server_.WaitForQueries(1);
  memory.reset();
  ASSERT_FALSE(leases_.Region(server_.queries()[0].header.inputs[0].region).empty()) << "the query in flight keeps it";
  AnswerDoubled(server_, server_.queries()[0]);
  EXPECT_EQ(ValueOf(reply.get()), 10);
  EXPECT_TRUE(leases_.WaitForLeases(0)) << "given back with the last that used it";
}

TEST_F(ClientLease, OutputsOutliveTheLeaseAndTheClient) {
  auto memory = std::make_unique<LeasedMemory>(Lease(4096));
  Fill(*memory, 0, 6);
  InferRequest request = QueryAt(*memory, 0);
  request.outputs = *memory->Block(64, 64);
  Tensor output = client_->Infer(std::move(request))->outputs.at(0);
  memory.reset();
  client_.reset();
  EXPECT_EQ(output.ToVector<int64_t>()[0], 12);
  output = {};
  EXPECT_TRUE(leases_.WaitForLeases(0));
}

// The server may still write to the block of a query that nobody waits for any more.
TEST_F(ClientLease, ABlockBelongsToItsQueryUntilTheServerAnswered) {
  ClientOptions options = QuickOptions();
  options.receive_timeout = 300ms;
  client_ = ConnectTo(server_, options);
  const LeasedMemory memory = Lease(4096);
  hold_ = true;
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(1024, 128);
  EXPECT_EQ(client_->Infer(request).error().code(), StatusCode::kTimeout);
  for (const uint64_t offset : {1024 - 64, 1024, 1024 + 64}) {
    InferRequest other = QueryAt(memory, 0);
    other.outputs = *memory.Block(offset, 128);
    const auto refused = client_->Infer(std::move(other));
    ASSERT_FALSE(refused) << offset;
    EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.error().message(), HasSubstr("an earlier query may still write"));
  }
  EXPECT_EQ(client_->Infer(QueryAt(memory, 1024 + 64)).error().code(), StatusCode::kInvalidArgument) << "nor sent";
  InferRequest beside = QueryAt(memory, 0);
  beside.outputs = *memory.Block(1024 + 128, 128);
  auto held = client_->Submit(std::move(beside));
  server_.WaitForQueries(2);
  AnswerDoubled(server_, server_.queries()[0]);
  AnswerDoubled(server_, server_.queries()[1]);
  EXPECT_TRUE(held.get());
  WaitFor(*client_, &ClientCounters::late, 1);
  hold_ = false;
  EXPECT_TRUE(client_->Infer(std::move(request))) << "the late answer sets it free";
}

// The server copies inputs when it gets to them; outputs of another query must not be there by then.
TEST_F(ClientLease, ABlockIsNotPutOverWhatTheServerMayStillHaveToRead) {
  const LeasedMemory memory = Lease(4096);
  hold_ = true;
  auto first = client_->Submit(QueryAt(memory, 1024));
  auto second = client_->Submit(QueryAt(memory, 1024));
  server_.WaitForQueries(2);
  const auto refused = [&](uint64_t offset, uint64_t bytes) {
    InferRequest other = QueryAt(memory, 0);
    other.outputs = *memory.Block(offset, bytes);
    const auto reply = client_->Infer(std::move(other));
    return !reply && reply.error().code() == StatusCode::kInvalidArgument &&
           reply.error().message().find("inputs of an earlier query") != std::string::npos;
  };
  for (const uint64_t offset : {1024 - 64 + 1, 1024, 1024 + 63}) EXPECT_TRUE(refused(offset, 64)) << offset;
  EXPECT_TRUE(refused(0, 4096));
  AnswerDoubled(server_, server_.queries()[0]);
  EXPECT_TRUE(first.get());
  EXPECT_TRUE(refused(1024, 64)) << "the other query's inputs are there, too";
  AnswerDoubled(server_, server_.queries()[1]);
  EXPECT_TRUE(second.get());
  hold_ = false;
  InferRequest request = QueryAt(memory, 1024);
  request.outputs = *memory.Block(1024, 64);
  EXPECT_TRUE(client_->Infer(std::move(request))) << "its own inputs it may replace";
}

TEST_F(ClientLease, ARefusedQueryLeavesItsBlockFree) {
  const LeasedMemory memory = Lease(4096);
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(1024, 128);
  InferRequest bad = request;
  bad.inputs[0].shape = {1};
  EXPECT_FALSE(client_->Infer(std::move(bad)));
  EXPECT_TRUE(client_->Infer(request));
  request.inputs.clear();
  request.synthetic = {1, 0};
  EXPECT_EQ(client_->Infer(std::move(request)).error().code(), StatusCode::kInvalidArgument);
}

// What a reply says of the block is the server's word: it must lie inside, in order, where the query put it.
TEST_F(ClientLease, HostilePlacesOfOutputsAreMalformed) {
  hold_ = true;
  LeasedMemory memory = Lease(4096);
  using Outputs = std::vector<protocol::TensorHeader>;
  const auto at = [](uint64_t offset, int64_t elements = kElements) {
    return protocol::TensorHeader{"y", DType::kInt64, {elements}, 0, offset};
  };
  const std::vector<Outputs> bad = {
      {at(0)},                              // the input
      {at(1024 - 64)},                      // before
      {at(1024 + 1)},                       // not aligned
      {at(1024 + 192)},                     // behind
      {at(1024 + 128, 9)},                  // beyond the end
      {at(~uint64_t{0} - 63)},              // overflow
      {at(1024, int64_t{1} << 58)},         // as large
      {at(1024), at(1024)},                 // one on the other
      {at(1024 + 64), at(1024)},            // not in order
      {{"y", DType::kInt64, {kElements}}},  // a frame that is not there
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    InferRequest request = QueryAt(memory, 0);
    request.outputs = *memory.Block(1024, 192);
    auto reply = client_->Submit(std::move(request));
    server_.WaitForQueries(i + 1);
    protocol::Reply answer;
    answer.outputs = bad[i];
    server_.Reply(server_.queries()[i], answer);
    const auto result = reply.get();
    ASSERT_FALSE(result) << i;
    EXPECT_EQ(result.error().code(), StatusCode::kInternal) << i;
    EXPECT_THAT(result.error().message(), HasSubstr("malformed reply")) << i;
    // Nobody knows what such a server still writes: the block stays taken.
    InferRequest again = QueryAt(memory, 0);
    again.outputs = *memory.Block(1024, 192);
    EXPECT_EQ(client_->Infer(std::move(again)).error().code(), StatusCode::kInvalidArgument);
    memory = Lease(4096);
  }
  auto reply = client_->Submit(QueryAt(memory, 0));
  server_.WaitForQueries(bad.size() + 1);
  protocol::Reply answer;
  answer.outputs = {at(1024)};
  server_.Reply(server_.queries()[bad.size()], answer);
  EXPECT_THAT(reply.get().error().message(), HasSubstr("without a frame")) << "the query named no block";
}

TEST_F(ClientLease, WithoutItsServerItIsOrdinaryMemory) {
  const LeasedMemory memory = Lease(4096);
  Fill(memory, 0, 7);
  leases_.EndLeases();
  EXPECT_FALSE(memory.Alive());
  hold_ = true;
  auto reply = client_->Submit(QueryAt(memory, 0));
  server_.WaitForQueries(1);
  const FakeServer::Incoming query = server_.queries()[0];
  ASSERT_EQ(query.frames.size(), 1u) << "sent like any other tensor";
  EXPECT_EQ(query.frames[0].size(), kTensorBytes);
  EXPECT_EQ(query.frames[0][0], 7);
  FakeServer::Echo(server_, query);
  EXPECT_EQ(ValueOf(reply.get()), 7);
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(64, 64);
  const auto refused = client_->Infer(std::move(request));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(refused.error().message(), HasSubstr("take a new one"));
}

TEST_F(ClientLease, AnotherClientSendsItsBytes) {
  FakeServer other_server;
  const auto other = ConnectTo(other_server);
  const LeasedMemory memory = Lease(4096);
  Fill(memory, 0, 8);
  EXPECT_EQ(ValueOf(other->Infer(QueryAt(memory, 0))), 8);
  EXPECT_EQ(other_server.queries()[0].header.inputs[0].region, 0u) << "the number is between us and our server";
  InferRequest request = QueryAt(memory, 0);
  request.outputs = *memory.Block(64, 64);
  EXPECT_EQ(other->Infer(std::move(request)).error().code(), StatusCode::kInvalidArgument);
}

TEST_F(ClientLease, ServersWithoutLeasesSaySo) {
  server_.SetLease("");
  const auto memory = client_->Lease(4096);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(memory.error().message(), HasSubstr("gives no leases"));
  EXPECT_EQ(client_->Lease(0).error().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace abacus
