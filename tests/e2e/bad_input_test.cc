// Bad input gets a typed error that names the field, and nobody else notices.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/e2e/harness.h"

namespace abacus::test {
namespace {

// A well-behaved client in the background; every one of its queries must come back right.
class Bystander {
 public:
  explicit Bystander(const std::string& address)
      : thread_([this, address](const std::stop_token& stop) {
          const auto client = ConnectTo(address);
          while (client != nullptr && !stop.stop_requested()) {
            const InferRequest request = TextQuery(1000 + good_ % 900'000, 1 + good_ % 4, 1 + good_ % 16);
            if (Echoes(client->Infer(request), request)) {
              ++good_;
            } else {
              ++bad_;
            }
          }
        }) {}
  int bad() const { return bad_; }
  // Waits until some more queries have come back after this call.
  bool StillServed() {
    const int before = good_;
    return Eventually(kPatienceMs, [&] { return good_ > before + 2; }) && bad_ == 0;
  }

 private:
  std::atomic<int> good_{0}, bad_{0};
  std::jthread thread_;
};

class BadInputTest : public testing::Test {
 protected:
  static std::string Bytes(size_t n) { return std::string(n, '\0'); }
  static std::string Id(int64_t value, int64_t sequence = 1) {
    std::string bytes(static_cast<size_t>(sequence) * 8, '\0');
    std::memcpy(bytes.data(), &value, 8);
    return bytes;
  }
  // Sends one request and expects this refusal.
  void Refused(const protocol::Request& request, const std::vector<std::string>& payloads, StatusCode code,
               const std::string& field) {
    raw_.Send(request, payloads);
    const auto reply = raw_.Receive();
    ASSERT_TRUE(reply.has_value()) << "no reply for " << field;
    EXPECT_EQ(reply->id, request.id);
    EXPECT_EQ(reply->status, code) << reply->message;
    EXPECT_EQ(reply->field, field) << reply->message;
    EXPECT_FALSE(reply->message.empty());
  }

  ControllerProcess controller_{FakeServices("free", 0, "abandon = false\n",
                                             "[limits]\nmax_frame_mib = 1\nmax_message_mib = 4\nmax_frames = 4\n"
                                             "max_client_mib = 16\n")};
  RawClient raw_{controller_.tcp()};
  Bystander bystander_{controller_.tcp()};
};

TEST_F(BadInputTest, NamesTheFieldOfEveryMistake) {
  ASSERT_EQ(controller_.error(), "");
  const auto kInvalid = StatusCode::kInvalidArgument;
  protocol::Request request = ImageHeader(1);
  request.model = "nobody";
  Refused(request, {Bytes(4000)}, StatusCode::kUnknownModel, "model");
  request = ImageHeader(2);
  request.inputs[0].dtype = DType::kFloat64;
  Refused(request, {Bytes(8000)}, kInvalid, "inputs[0].dtype");
  request = ImageHeader(3);
  request.inputs[0].shape = {1, 10, 100};
  Refused(request, {Bytes(4000)}, kInvalid, "inputs[0].shape");
  request.inputs[0].shape = {1, 999};
  Refused(request, {Bytes(3996)}, kInvalid, "inputs[0].shape");
  request.inputs[0].shape = {0, 1000};
  Refused(request, {Bytes(0)}, kInvalid, "inputs[0].shape");
  request.inputs[0].shape = {257, 1000};  // 64 times the largest batch size would be split
  Refused(request, {Bytes(1'028'000)}, kInvalid, "inputs");
  Refused(ImageHeader(4), {Bytes(3999)}, kInvalid, "inputs[0]");
  Refused(ImageHeader(5), {Bytes(4001)}, kInvalid, "inputs[0]");
  Refused(ImageHeader(6), {}, kInvalid, "inputs");
  Refused(ImageHeader(7), {Bytes(4000), Bytes(4)}, kInvalid, "inputs");
  request = ImageHeader(8);
  request.inputs[0].name = "z";
  Refused(request, {Bytes(4000)}, kInvalid, "inputs[0].name");
  request = ImageHeader(9);
  request.inputs.push_back({"y", DType::kFloat32, {1, 1000}});
  Refused(request, {Bytes(4000), Bytes(4000)}, kInvalid, "inputs[1].name");
  protocol::Request text;
  text.id = 10;
  text.model = "text";
  text.inputs.push_back({"ids", DType::kInt64, {1, 1}});
  for (const int64_t bad : {int64_t{-1}, int64_t{1'000'000}, INT64_MIN, INT64_MAX}) {
    Refused(text, {Id(bad)}, kInvalid, "inputs[0]");
  }
  text.inputs[0].shape = {1, 17};
  Refused(text, {Id(0, 17)}, kInvalid, "inputs");
  // After all that a right query works, on the same connection.
  raw_.Send(ImageHeader(11), {Bytes(4000)});
  const auto reply = raw_.Receive();
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->status, StatusCode::kOk);
  EXPECT_TRUE(bystander_.StillServed());
}

TEST_F(BadInputTest, RefusesADuplicateIdAndStillAnswersTheFirst) {
  protocol::Request slow;  // hangs its worker until the round time limit, so both are in flight together
  slow.id = 77;
  slow.model = "text";
  slow.inputs.push_back({"ids", DType::kInt64, {1, 1}});
  raw_.Send(slow, {Id(668)});
  raw_.Send(slow, {Id(1000)});
  const auto refused = raw_.Receive();
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->status, StatusCode::kInvalidArgument);
  EXPECT_EQ(refused->field, "id");
  const auto first = raw_.Receive(10'000);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->id, 77u);
  EXPECT_EQ(first->status, StatusCode::kWorkerFailed);
  raw_.Send(slow, {Id(1000)});  // the id is free again
  const auto again = raw_.Receive(10'000);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->status, StatusCode::kOk) << again->message;
}

TEST_F(BadInputTest, SurvivesHostileHeaders) {
  std::string good;
  protocol::EncodeRequest(ImageHeader(1), &good);
  std::vector<std::string> headers = {"", "\xc1", std::string("\xdd\xff\xff\xff\xff", 5),
                                      std::string("\xdf\xff\xff\xff\xff", 5), std::string(10'000, '\x91')};
  for (size_t n = 1; n < good.size(); n += 3) headers.push_back(good.substr(0, n));
  std::mt19937 random(5);
  for (int i = 0; i < 500; ++i) {
    std::string mutated = good;
    for (int k = 0; k < 3; ++k) mutated[random() % mutated.size()] = static_cast<char>(random());
    headers.push_back(mutated);
  }
  for (const std::string& header : headers) {
    raw_.Send({header, Bytes(4000)});
    const auto reply = raw_.Receive();
    ASSERT_TRUE(reply.has_value()) << "every message gets an answer";
  }
  EXPECT_TRUE(bystander_.StillServed());
}

TEST_F(BadInputTest, RefusesTooManyFrames) {
  std::vector<std::string> payloads(20, "x");
  Refused(ImageHeader(1), payloads, StatusCode::kInvalidArgument, "inputs");
  std::vector<std::string> many(100'000, "");
  Refused(ImageHeader(2), many, StatusCode::kInvalidArgument, "inputs");
  EXPECT_TRUE(bystander_.StillServed());
}

TEST_F(BadInputTest, RefusesAnOversizedFrameForItself) {
  Refused(ImageHeader(1), {Bytes((1 << 20) + 1)}, StatusCode::kInvalidArgument, "inputs[0]");
  EXPECT_TRUE(bystander_.StillServed());
}

// Speaks just enough ZMTP to send frames that never end: a 64-byte greeting (NULL mechanism), a READY command, then
// frames with the "more" flag. ZeroMQ itself bounds neither their number nor their bytes.
class EndlessSender {
 public:
  EndlessSender(const std::string& address, size_t frame_bytes) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    const int port = std::stoi(address.substr(address.rfind(':') + 1));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
    std::string greeting(64, '\0');
    greeting[0] = '\xff';
    greeting[9] = '\x7f';
    greeting[10] = 3;
    greeting.replace(12, 4, "NULL");
    const std::string property = std::string("\x0bSocket-Type", 12) + std::string("\0\0\0\x06", 4) + "DEALER";
    const std::string ready = std::string("\x05READY", 6) + property;
    Write(greeting + std::string("\x04", 1) + static_cast<char>(ready.size()) + ready);
    AwaitHandshake();
    std::string frame;
    if (frame_bytes < 256) {
      frame = std::string("\x01", 1) + static_cast<char>(frame_bytes) + std::string(frame_bytes, 'x');
    } else {
      frame = std::string("\x03", 1);
      for (int shift = 56; shift >= 0; shift -= 8) frame += static_cast<char>(frame_bytes >> shift & 0xff);
      frame += std::string(frame_bytes, 'x');
    }
    while (block_.size() < (1 << 16)) block_ += frame;
  }
  ~EndlessSender() { close(fd_); }
  // Sends until the server cuts the connection or `limit_bytes` have gone; true when it was cut.
  bool SendUntilCut(uint64_t limit_bytes) {
    while (connected_ && sent_ < limit_bytes) Write(block_);
    return !connected_;
  }
  uint64_t sent() const { return sent_; }

 private:
  // Frames before the server's READY count as a protocol error: its greeting is 64 bytes, READY comes right behind.
  void AwaitHandshake() {
    const timeval limit{5, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    char buffer[256];
    for (ssize_t got = 0, n = 1; got <= 64 && n > 0; got += n) n = recv(fd_, buffer, sizeof(buffer), 0);
  }
  void Write(const std::string& bytes) {
    size_t done = 0;
    while (connected_ && done < bytes.size()) {
      const ssize_t n = send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (n <= 0) {
        connected_ = false;
      } else {
        done += static_cast<size_t>(n);
        sent_ += static_cast<uint64_t>(n);
      }
    }
  }
  const int fd_;
  bool connected_ = false;
  uint64_t sent_ = 0;
  std::string block_;
};

TEST_F(BadInputTest, CutsAnEndlessMessageOff) {
  for (const size_t frame_bytes : {size_t{100'000}, size_t{1}, size_t{0}}) {
    EndlessSender sender(controller_.tcp(), frame_bytes);
    EXPECT_TRUE(sender.SendUntilCut(uint64_t{2} << 30)) << frame_bytes;
    EXPECT_GT(sender.sent(), uint64_t{1} << 20) << "cut before it broke any limit";
    EXPECT_TRUE(bystander_.StillServed());
  }
  EXPECT_GE(controller_.region().header().closed_connections.load(), 3u) << controller_.Log();
}

}  // namespace
}  // namespace abacus::test
