// A FrontEnd on its own thread, with real sockets: the test plays clients and scheduler.
#ifndef ABACUS_TESTS_CONTROLLER_INTAKE_FRONT_END_FIXTURE_H_
#define ABACUS_TESTS_CONTROLLER_INTAKE_FRONT_END_FIXTURE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "base/clock.h"
#include "client/protocol.h"
#include "controller/intake/front_end.h"
#include "models/tensor_layout.h"
#include "tests/controller/intake/lease_client.h"
#include "tests/support/controller_process.h"
#include "tests/support/specs.h"

namespace abacus {

// A client without the client library: what it sends need not make sense.
class Dealer {
 public:
  explicit Dealer(const std::string& endpoint, const std::string& name = {}) : Dealer(nullptr, endpoint, name) {}
  // In a context that outlives it: closing it then waits for nothing, as in a program that goes on. `name`: the routing
  // id of the connection, "" for none.
  Dealer(zmq::context_t* shared, const std::string& endpoint, const std::string& name)
      : socket_(shared != nullptr ? *shared : context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    SetPatience(test::kPatienceMs);
    if (!name.empty()) socket_.set(zmq::sockopt::routing_id, name);
    socket_.connect(endpoint);
  }
  // How long Receive waits.
  void SetPatience(int ms) { socket_.set(zmq::sockopt::rcvtimeo, ms); }

  void SendFrames(const std::vector<std::string>& frames) {
    for (size_t i = 0; i < frames.size(); ++i) {
      socket_.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  void Send(const protocol::Request& request, const std::vector<std::string>& tensors = {}) {
    std::vector<std::string> frames(1);
    protocol::EncodeRequest(request, &frames[0]);
    frames.insert(frames.end(), tensors.begin(), tensors.end());
    SendFrames(frames);
  }

  struct Answer {
    protocol::Reply reply;
    std::vector<std::string> outputs;
  };
  // nullopt: none came in time, or it is not decodable.
  std::optional<Answer> Receive() {
    Answer answer;
    zmq::message_t frame;
    if (!socket_.recv(frame)) return std::nullopt;
    const std::span header(static_cast<const std::byte*>(frame.data()), frame.size());
    if (!protocol::DecodeReply(header, &answer.reply)) return std::nullopt;
    while (frame.more()) {
      if (!socket_.recv(frame)) return std::nullopt;
      answer.outputs.emplace_back(static_cast<const char*>(frame.data()), frame.size());
    }
    return answer;
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
};

inline protocol::Request Synthetic(uint64_t id, const std::string& model = "image") {
  protocol::Request request;
  request.id = id;
  request.model = model;
  request.synthetic = true;
  request.batch = 1;
  return request;
}

inline protocol::Request Ask(protocol::RequestType type, uint64_t id) {
  protocol::Request request;
  request.type = type;
  request.id = id;
  return request;
}

// For test::ImageSpec; every row takes 16 bytes in and out.
inline protocol::Request ImageQuery(uint64_t id, int64_t rows) {
  protocol::Request request;
  request.id = id;
  request.model = "image";
  request.inputs.push_back({"x", DType::kFloat32, Shape{rows, 4}});
  return request;
}

class FrontEndTest : public testing::Test {
 protected:
  // Services, worker slots and places in the set are numbered apart.
  static ServicePtr MakeService(size_t id, size_t worker, const ModelSpec& spec) {
    Service service;
    service.id = ServiceId(id);
    service.worker = WorkerId(worker);
    service.config.name = spec.name;
    service.config.spec = spec;
    return std::make_shared<const Service>(std::move(service));
  }
  static ServiceSetPtr MakeSet(std::vector<ServicePtr> services) {
    return std::make_shared<const ServiceSet>(std::move(services));
  }

  FrontEndTest() {
    server_.listen = {"tcp://127.0.0.1:*"};
    server_.ipc = false;
    limits_.max_client_queries = 100;
    limits_.max_queries = 100;
    image_ = MakeService(0, 3, test::ImageSpec());
    text_ = MakeService(1, 2, test::TextSpec());
  }
  ~FrontEndTest() override { Stop(); }

  void Start(uint64_t arena_bytes = 1 << 20, uint32_t slots = 128, bool arena_ready = true) {
    region_ = Region::Create("intake-" + std::to_string(getpid()), {.services = 3, .lanes = 1}, arena_bytes).value();
    ASSERT_TRUE(region_->ReserveArena().ok());
    table_ = std::make_unique<QueryTable>(slots);
    channel_ = std::make_unique<QueryChannel>(slots);
    auto created = FrontEnd::Create(server_, limits_, MakeSet({image_, text_}), "", region_.get(), table_.get(),
                                    channel_.get(), &leases_, [this] { wakes_.fetch_add(1); });
    ASSERT_TRUE(created) << created.error().message();
    front_end_ = std::move(*created);
    if (arena_ready) front_end_->SetArenaReady();
    thread_ = std::thread([this] { front_end_->Run(stop_); });
  }
  void Stop() {
    if (!thread_.joinable()) return;
    stop_.store(true);
    front_end_->Wake();
    thread_.join();
  }
  std::string endpoint() const { return front_end_->endpoints().front(); }
  const SegmentHeader& header() const { return region_->header(); }

  // The scheduler's part. What it is told to cancel stands in cancelled_.
  bool TakeQuery(uint32_t* slot) {
    for (uint32_t told = 0; channel_->submitted.pop(told);) {
      *slot = told & ~QueryChannel::kCancelBit;
      if (told == *slot) return true;
      cancelled_.push_back(*slot);
    }
    return false;
  }
  uint32_t NextQuery() {
    uint32_t slot = UINT32_MAX;
    if (test::Eventually(test::kPatienceMs, [&] { return TakeQuery(&slot); })) return slot;
    ADD_FAILURE() << "no query came";
    return UINT32_MAX;
  }
  // Whether the scheduler is told within the time to cancel this query, and has been told so once.
  bool IsCancelled(uint32_t slot, int within_ms = test::kPatienceMs) {
    uint32_t other = 0;
    const auto count = [&] {
      EXPECT_FALSE(TakeQuery(&other)) << "another query came";
      return std::count(cancelled_.begin(), cancelled_.end(), slot);
    };
    test::Eventually(within_ms, [&] { return count() > 0; });
    return count() == 1;
  }
  void Finish(uint32_t slot, StatusCode status = StatusCode::kOk, std::string message = {}) {
    (*table_)[slot].status = status;
    (*table_)[slot].message = std::move(message);
    channel_->done.push(slot);
    front_end_->Wake();
  }
  // The worker's part.
  TensorLayout LayoutOfQuery(uint32_t slot) const {
    const Query& query = (*table_)[slot];
    return LayoutOf(query.service->config.spec, query.rows, query.sequence);
  }
  std::byte* Block(uint32_t slot) const { return region_->arena().data() + (*table_)[slot].block.offset_bytes; }
  std::string Input(uint32_t slot, size_t index) const {
    const TensorExtent extent = LayoutOfQuery(slot).inputs[index];
    return {reinterpret_cast<const char*>(Block(slot)) + extent.offset_bytes, extent.bytes};
  }
  void WriteOutput(uint32_t slot, size_t index, std::string_view bytes) {
    const TensorExtent extent = LayoutOfQuery(slot).outputs[index];
    ASSERT_EQ(bytes.size(), extent.bytes);
    std::memcpy(Block(slot) + extent.offset_bytes, bytes.data(), bytes.size());
  }

  // The next answer is this refusal.
  void ExpectRefused(Dealer& dealer, uint64_t id, StatusCode status, const std::string& field) {
    const auto answer = dealer.Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->reply.id, id);
    EXPECT_EQ(answer->reply.status, status) << answer->reply.message;
    EXPECT_EQ(answer->reply.field, field) << answer->reply.message;
    EXPECT_NE(answer->reply.message, "");
    EXPECT_TRUE(answer->outputs.empty());
  }
  bool InUseBecomes(uint32_t slots) {
    return test::Eventually(test::kPatienceMs, [&] { return front_end_->InUse() == slots; });
  }
  // Everything that was held has come back.
  void ExpectAllBack() {
    EXPECT_TRUE(InUseBecomes(0));
    EXPECT_TRUE(test::Eventually(test::kPatienceMs, [&] { return header().arena_used_bytes.load() == 0; }));
    Stop();
    EXPECT_EQ(table_->in_use(), 0u);
  }

  ServerConfig server_;
  LimitsConfig limits_;
  ServicePtr image_, text_;
  std::unique_ptr<Region> region_;
  std::unique_ptr<QueryTable> table_;
  std::unique_ptr<QueryChannel> channel_;
  Leases leases_{"/tmp/abacus-leases-" + std::to_string(getpid()) + ".sock"};  // outlives the front end
  std::unique_ptr<FrontEnd> front_end_;
  std::vector<uint32_t> cancelled_;
  std::atomic<int> wakes_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace abacus

#endif  // ABACUS_TESTS_CONTROLLER_INTAKE_FRONT_END_FIXTURE_H_
