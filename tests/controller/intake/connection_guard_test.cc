#include "controller/intake/connection_guard.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "tests/support/controller_process.h"

namespace abacus {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kUnlimited = 1ull << 40;

// A peer that speaks just enough of ZMTP 3.0 to begin messages and never end one.
class RawConnection {
 public:
  explicit RawConnection(const std::string& endpoint) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{test::kPatienceMs / 1000, 0};  // nothing waits for ever
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawConnection() { close(fd_); }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  bool connected() const { return connected_; }

  // The greeting (signature, version 3.0, mechanism NULL) and READY as a DEALER, until the other side is ready, too:
  // what came earlier would break its handshake off.
  bool Greet() {
    using std::string_literals::operator""s;
    std::string greeting = "\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL"s;
    greeting.resize(64, '\0');
    const std::string ready = "\x05READY\x0bSocket-Type\0\0\0\x06"s + "DEALER";
    return SendBytes(greeting + '\x04' + static_cast<char>(ready.size()) + ready) && Await("READY");
  }
  // One frame of 64 KiB with the flag that says more frames follow.
  bool SendUnfinished() { return Announce(64 * 1024) && SendBytes(std::string(64 * 1024, 'x')); }
  // The head of a frame, with that flag.
  bool Announce(uint64_t bytes) {
    std::string head = "\x03";  // more, long
    for (int shift = 56; shift >= 0; shift -= 8) head.push_back(static_cast<char>(bytes >> shift));
    return SendBytes(head);
  }
  // Whether the other side closes the connection, now or soon.
  bool Closes() {
    char buffer[256];
    ssize_t got = 0;
    while ((got = recv(fd_, buffer, sizeof(buffer), 0)) > 0) {  // its greeting
    }
    return got == 0 || errno == ECONNRESET;
  }
  bool open() {
    char byte = 0;
    const ssize_t got = recv(fd_, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
  }

 private:
  // Reads until this has come.
  bool Await(std::string_view text) {
    std::string received;
    char buffer[256];
    while (received.find(text) == std::string::npos) {
      const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
      if (got <= 0) return false;
      received.append(buffer, static_cast<size_t>(got));
    }
    return true;
  }
  bool SendBytes(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  const int fd_;
  bool connected_ = false;
};

class ConnectionGuardTest : public testing::Test {
 protected:
  void Start(const ConnectionGuard::Limits& limits) {
    router_.set(zmq::sockopt::linger, 0);
    router_.set(zmq::sockopt::rcvtimeo, test::kPatienceMs);
    guard_ = std::make_unique<ConnectionGuard>(&context_, &router_, limits);
    router_.bind("tcp://127.0.0.1:*");
    endpoint_ = router_.get(zmq::sockopt::last_endpoint);
  }
  ~ConnectionGuardTest() override { guard_.reset(); }

  // Lets a check interval pass.
  void Check() { closed_ += guard_->Check(now_ns_ += 10 * kNsPerMs); }
  // Checks until `condition` holds.
  template <class Condition>
  bool Checking(const Condition& condition) {
    return test::Eventually(test::kPatienceMs, [&] {
      Check();
      return condition();
    });
  }
  void CheckAWhile() {
    for (int i = 0; i < 50; ++i) {
      Check();
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  zmq::context_t context_;
  zmq::socket_t router_{context_, zmq::socket_type::router};
  std::unique_ptr<ConnectionGuard> guard_;
  std::string endpoint_;
  uint64_t now_ns_ = kNsPerSecond;
  uint32_t closed_ = 0;
};

TEST_F(ConnectionGuardTest, WatchesFromAcceptanceToTheEnd) {
  Start({kMiB, kUnlimited, 10, kUnlimited});
  EXPECT_FALSE(guard_->watching());
  {
    const RawConnection connection(endpoint_);
    ASSERT_TRUE(connection.connected());
    EXPECT_TRUE(Checking([&] { return guard_->watching(); }));
  }
  EXPECT_TRUE(Checking([&] { return !guard_->watching(); }));
  EXPECT_EQ(closed_, 0u);
}

TEST_F(ConnectionGuardTest, CutsOffAMessageWithoutEnd) {
  Start({kMiB, kUnlimited, 10, kUnlimited});
  RawConnection hostile(endpoint_), idle(endpoint_);
  ASSERT_TRUE(hostile.Greet() && idle.Greet());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(hostile.SendUnfinished());
  CheckAWhile();
  EXPECT_EQ(closed_, 0u) << "half a MiB may still become a message";
  for (int i = 0; i < 16 && hostile.SendUnfinished(); ++i) {
  }
  EXPECT_TRUE(Checking([&] { return closed_ > 0; }));
  EXPECT_TRUE(hostile.Closes());
  CheckAWhile();
  EXPECT_EQ(closed_, 1u) << "once, and nobody else";
  EXPECT_TRUE(idle.open());
}

TEST_F(ConnectionGuardTest, LeavesThoseAloneThatCompleteTheirMessages) {
  Start({kMiB, kUnlimited, 10, kUnlimited});
  zmq::context_t context;
  zmq::socket_t dealer(context, zmq::socket_type::dealer);
  dealer.set(zmq::sockopt::linger, 0);
  dealer.connect(endpoint_);
  const std::string payload(200 * 1024, 'x');
  for (int i = 0; i < 40; ++i) {  // 8 MB in all
    dealer.send(zmq::buffer(payload));
    zmq::message_t identity, frame;
    ASSERT_TRUE(router_.recv(identity));
    ASSERT_TRUE(router_.recv(frame));
    guard_->Delivered(zmq_msg_get(frame.handle(), ZMQ_SRCFD));
    Check();
  }
  EXPECT_TRUE(guard_->watching());
  EXPECT_EQ(closed_, 0u);
}

TEST_F(ConnectionGuardTest, ClosesConnectionsBeyondTheLimit) {
  Start({kMiB, kUnlimited, 2, kUnlimited});
  RawConnection first(endpoint_), second(endpoint_);
  ASSERT_TRUE(first.connected() && second.connected());
  CheckAWhile();
  EXPECT_EQ(closed_, 0u);
  RawConnection third(endpoint_);
  EXPECT_TRUE(Checking([&] { return closed_ > 0; }));
  EXPECT_TRUE(third.Closes());
  EXPECT_TRUE(first.open() && second.open());
}

TEST_F(ConnectionGuardTest, CountsWhatZeroMQCutsOff) {
  router_.set(zmq::sockopt::maxmsgsize, int64_t{kMiB});
  Start({kUnlimited, kUnlimited, 10, kMiB});
  RawConnection hostile(endpoint_), stranger(endpoint_);
  ASSERT_TRUE(hostile.Greet());
  ASSERT_TRUE(hostile.SendUnfinished());
  CheckAWhile();
  ASSERT_TRUE(hostile.Announce(kMiB + 1));
  EXPECT_TRUE(Checking([&] { return closed_ > 0; }));
  EXPECT_TRUE(hostile.Closes());
  {
    RawConnection polite(endpoint_);
    ASSERT_TRUE(polite.Greet());
    ASSERT_TRUE(polite.SendUnfinished());
    CheckAWhile();
  }
  CheckAWhile();
  EXPECT_EQ(closed_, 1u) << "who closes its own connection is not cut off";
}

TEST_F(ConnectionGuardTest, CutsOffWhoseMessagesAreSwallowed) {
  Start({kUnlimited, kUnlimited, 10, kUnlimited});
  zmq::context_t context;
  const auto connect = [&](const char* name) {
    zmq::socket_t dealer(context, zmq::socket_type::dealer);
    dealer.set(zmq::sockopt::linger, 0);
    dealer.set(zmq::sockopt::routing_id, name);
    dealer.connect(endpoint_);
    return dealer;
  };
  const std::string text(1000, 'x');
  zmq::socket_t first = connect("same");
  first.send(zmq::buffer(text));
  zmq::message_t identity, frame;
  ASSERT_TRUE(router_.recv(identity) && router_.recv(frame));
  guard_->Delivered(zmq_msg_get(frame.handle(), ZMQ_SRCFD), /*named=*/true);
  zmq::socket_t second = connect("same");
  RawConnection idle(endpoint_);
  ASSERT_TRUE(idle.Greet());
  second.send(zmq::buffer(text));
  router_.set(zmq::sockopt::rcvtimeo, 200);
  ASSERT_FALSE(router_.recv(identity)) << "ZeroMQ swallows it";
  now_ns_ += kNsPerSecond;
  CheckAWhile();
  EXPECT_EQ(closed_, 0u) << "a pause is nothing unusual";
  now_ns_ += 2 * kNsPerSecond;
  CheckAWhile();
  EXPECT_EQ(closed_, 1u) << "neither the one that is served nor the one that says nothing";
  EXPECT_TRUE(idle.open());
}

TEST_F(ConnectionGuardTest, APauseHarmsNobodyWhereNobodyHasAName) {
  Start({kUnlimited, kUnlimited, 10, kUnlimited});
  RawConnection slow(endpoint_);
  ASSERT_TRUE(slow.Greet());
  ASSERT_TRUE(slow.SendUnfinished());
  for (int i = 0; i < 3; ++i) {
    CheckAWhile();
    now_ns_ += 60 * kNsPerSecond;
  }
  EXPECT_EQ(closed_, 0u);
  EXPECT_TRUE(slow.open());
}

// The limits of memory and of one message are independent: here only memory counts.
TEST_F(ConnectionGuardTest, CutsOffTheWorstWhenMemoryGrows) {
  Start({kUnlimited, 8 * kMiB, 10, kUnlimited});
  RawConnection hostile(endpoint_), modest(endpoint_);
  ASSERT_TRUE(hostile.Greet() && modest.Greet());
  EXPECT_TRUE(Checking([&] { return guard_->watching(); }));  // memory counts from here
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(modest.SendUnfinished());
  for (int i = 0; i < 24 * 16 && hostile.SendUnfinished(); ++i) {
  }
  EXPECT_TRUE(Checking([&] { return closed_ > 0; }));
  EXPECT_TRUE(hostile.Closes());
  CheckAWhile();
  EXPECT_EQ(closed_, 1u);
  EXPECT_TRUE(modest.open());
}

TEST_F(ConnectionGuardTest, MemoryThatNobodySentIsNobodysFault) {
  Start({kUnlimited, 8 * kMiB, 10, kUnlimited});
  RawConnection connection(endpoint_);
  ASSERT_TRUE(connection.Greet());
  EXPECT_TRUE(Checking([&] { return guard_->watching(); }));
  const std::vector<char> load(32 * kMiB, 'x');
  CheckAWhile();
  EXPECT_EQ(load.back(), 'x');
  EXPECT_EQ(closed_, 0u);
  EXPECT_TRUE(connection.open());
}

}  // namespace
}  // namespace abacus
