#include "controller/intake/doorman.h"

#include <charconv>
#include <cstring>
#include <string>
#include <utility>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr char kDoor[] = "inproc://zeromq.zap.01";  // where ZeroMQ asks
constexpr size_t kRepeatedFrames = 4;               // of a question: who asks, an empty one, version, request id
// Ends were measured to come up to 1 ms after the new connection on a busy machine, and ZeroMQ's threads take some
// 0.1 ms to forget what has ended.
constexpr uint64_t kWaitNs = 20 * kNsPerMs;

}  // namespace

Doorman::Doorman(zmq::context_t* context, zmq::socket_t* router, ConnectionGuard* guard)
    : guard_(*guard), door_(*context, zmq::socket_type::router) {
  door_.set(zmq::sockopt::linger, 0);
  door_.bind(kDoor);
  router->set(zmq::sockopt::zap_domain, "abacus");  // without one, ZeroMQ asks nobody
}

bool Doorman::Ask(uint64_t now_ns) {
  Guest guest{guard_.names_used() ? now_ns + kWaitNs : now_ns, {}};
  bool more = true;
  while (more) {
    zmq::message_t frame;
    if (!door_.recv(frame, zmq::recv_flags::dontwait)) return false;
    more = frame.more();
    if (guest.question.size() < kRepeatedFrames) guest.question.push_back(std::move(frame));
  }
  guests_.push_back(std::move(guest));
  return true;
}

void Doorman::LetIn(uint64_t now_ns) {
  while (Ask(now_ns)) {
  }
  for (; !guests_.empty() && guests_.front().not_before_ns <= now_ns; guests_.pop_front()) {
    for (zmq::message_t& frame : guests_.front().question) door_.send(frame, zmq::send_flags::sndmore);
    // Status, its text and the user id; no metadata follows.
    for (const std::string& text : {std::string("200"), std::string("OK"), std::to_string(guard_.NewNumber())}) {
      door_.send(zmq::buffer(text), zmq::send_flags::sndmore);
    }
    door_.send(zmq::message_t(), zmq::send_flags::none);
  }
}

uint64_t Doorman::NumberOf(zmq::message_t& frame) {
  const char* const text = zmq_msg_gets(frame.handle(), "User-Id");
  uint64_t number = 0;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), number);
  return number;
}

}  // namespace abacus
