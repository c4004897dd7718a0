#include "controller/intake/doorman.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/clock.h"
#include "tests/support/controller_process.h"

namespace abacus {
namespace {

constexpr uint64_t kUnlimited = 1ull << 40;

class DoormanTest : public testing::Test {
 protected:
  DoormanTest() {
    router_.set(zmq::sockopt::linger, 0);
    guard_ = std::make_unique<ConnectionGuard>(&context_, &router_,
                                               ConnectionGuard::Limits{kUnlimited, kUnlimited, 100, kUnlimited});
    doorman_ = std::make_unique<Doorman>(&context_, &router_, guard_.get());
    router_.bind("tcp://127.0.0.1:*");
    endpoint_ = router_.get(zmq::sockopt::last_endpoint);
  }
  ~DoormanTest() override {
    guard_.reset();
    router_.close();
    doorman_.reset();
  }

  struct Came {
    uint64_t number = 0;
    int fd = -1;
  };
  // Lets in who waits, until a message has come.
  std::optional<Came> Next() {
    std::optional<Came> came;
    test::Eventually(test::kPatienceMs, [&] {
      doorman_->LetIn(MonotonicNs());
      zmq::message_t identity, frame;
      if (!router_.recv(identity, zmq::recv_flags::dontwait) || !router_.recv(frame)) return false;
      came = Came{Doorman::NumberOf(frame), zmq_msg_get(frame.handle(), ZMQ_SRCFD)};
      return true;
    });
    return came;
  }
  bool BecomesEnded(const Came& came) {
    return test::Eventually(test::kPatienceMs, [&] {
      guard_->ReadEvents();
      return guard_->Ended(came.number, came.fd);
    });
  }
  zmq::socket_t Connect() {
    zmq::socket_t dealer(clients_, zmq::socket_type::dealer);
    dealer.set(zmq::sockopt::linger, 0);
    dealer.connect(endpoint_);
    return dealer;
  }
  static void Say(zmq::socket_t& dealer) { dealer.send(zmq::str_buffer("x")); }

  zmq::context_t context_, clients_;
  zmq::socket_t router_{context_, zmq::socket_type::router};
  std::unique_ptr<ConnectionGuard> guard_;
  std::unique_ptr<Doorman> doorman_;
  std::string endpoint_;
};

TEST_F(DoormanTest, NobodyComesInUnlet) {
  zmq::socket_t dealer = Connect();
  Say(dealer);
  zmq::message_t identity;
  router_.set(zmq::sockopt::rcvtimeo, 200);
  EXPECT_FALSE(router_.recv(identity));
  EXPECT_TRUE(Next().has_value());
}

TEST_F(DoormanTest, EveryConnectionHasANumberOfItsOwn) {
  zmq::socket_t a = Connect(), b = Connect();
  Say(a);
  const auto first = Next();
  Say(b);
  const auto second = Next();
  Say(a);
  const auto third = Next();
  ASSERT_TRUE(first && second && third);
  EXPECT_GT(first->number, 0u);
  EXPECT_NE(first->number, second->number);
  EXPECT_EQ(first->number, third->number) << "all its messages carry it";
}

TEST_F(DoormanTest, AnEndIsThatOfOneConnectionThoughTheNextHasItsDescriptor) {
  std::optional<Came> before;
  for (int i = 0; i < 10; ++i) {
    zmq::socket_t dealer = Connect();
    Say(dealer);
    const auto came = Next();
    ASSERT_TRUE(came.has_value());
    EXPECT_FALSE(guard_->Ended(came->number, came->fd)) << i;
    if (before) {
      EXPECT_TRUE(guard_->Ended(before->number, before->fd)) << i;
    }
    dealer.close();
    EXPECT_TRUE(BecomesEnded(*came)) << i;
    before = came;
  }
}

TEST_F(DoormanTest, NobodyWaitsWhereNobodyHasAName) {
  zmq::socket_t dealer = Connect();
  Say(dealer);
  ASSERT_TRUE(Next().has_value());
  zmq::socket_t other = Connect();
  zmq::message_t identity;
  ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] {
    doorman_->LetIn(0);  // the clock stands still
    EXPECT_FALSE(doorman_->waiting());
    Say(other);
    return router_.recv(identity, zmq::recv_flags::dontwait).has_value();
  }));
}

TEST_F(DoormanTest, OnceNamesAreUsedAllNewcomersWaitAtTheSameTime) {
  guard_->Delivered(-1, /*named=*/true);
  zmq::socket_t a = Connect(), b = Connect(), c = Connect();
  for (zmq::socket_t* dealer : {&a, &b, &c}) Say(*dealer);
  const auto arrived = [&](int count) {
    zmq::message_t identity, frame;
    int came = 0;
    router_.set(zmq::sockopt::rcvtimeo, 200);
    while (came < count && router_.recv(identity) && router_.recv(frame)) ++came;
    return came;
  };
  for (int i = 0; i < 100; ++i) {  // all three have asked after this
    doorman_->LetIn(0);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_TRUE(doorman_->waiting());
  doorman_->LetIn(19 * kNsPerMs);
  EXPECT_EQ(arrived(3), 0);
  doorman_->LetIn(20 * kNsPerMs);
  EXPECT_FALSE(doorman_->waiting());
  EXPECT_EQ(arrived(3), 3) << "not one after the other";
}

}  // namespace
}  // namespace abacus
