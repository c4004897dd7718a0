// ConnectionGuard: watches the connections of the socket, and closes those that harm.
//
// ZeroMQ delivers a multipart message only when it is complete and bounds neither its frames nor its bytes, so a peer
// that never ends a message fills our memory before the front end sees anything. Messages of a connection arrive in
// order, so whatever came before a delivered message is complete: the guard counts, per connection, the bytes that the
// kernel received (TCP_INFO) since the last look that followed a delivery. When they pass `max_pending_bytes`,
// or the process's memory grew by more than `max_growth_bytes` since the first connection (tiny frames cost ZeroMQ many
// times their bytes), the worst connection is shut down; ZeroMQ then drops what it held. Memory that grew without an
// unfinished message of some size is nobody's fault and becomes the new measure.
// Connections beyond `max_connections` are closed at once. Local ipc connections are the same user's and not watched.
//
// Names: a client may name its connection (ZMQ_ROUTING_ID). ZeroMQ serves the first connection of a name and takes in
// what a second one sends without ever delivering it. So once any client has named itself, a connection is shut that
// sent something, had nothing delivered, and sent next to nothing more for two seconds: no long message is under way.
// Its client connects again, and is served when the first connection has ended.
//
// Numbers: every connection that is let in gets a number (doorman.h), and the guard knows which of them have ended. The
// descriptor of a connection is not enough: the next one gets the same.
//
// What is closed, here or by ZeroMQ for breaking its protocol or the limit on a frame, is logged with the peer's
// address.
//
// Thread rule: the front end's thread. Units: bytes, nanoseconds.
#ifndef ABACUS_CONTROLLER_INTAKE_CONNECTION_GUARD_H_
#define ABACUS_CONTROLLER_INTAKE_CONNECTION_GUARD_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <zmq.hpp>

namespace abacus {

class ConnectionGuard {
 public:
  struct Limits {
    uint64_t max_pending_bytes = 0;
    uint64_t max_growth_bytes = 0;
    uint32_t max_connections = 0;
    uint64_t max_frame_bytes = 0;  // of ZeroMQ (ZMQ_MAXMSGSIZE), for the log
  };

  // Watches connections that `socket` accepts; make it before the socket binds.
  ConnectionGuard(zmq::context_t* context, zmq::socket_t* socket, const Limits& limits);
  ~ConnectionGuard();

  // A message came in from connection `fd` (ZMQ_SRCFD of one of its frames). `named`: its client named it.
  void Delivered(int fd, bool named = false);
  // Looks at all connections if a check is due. Returns how many were closed since the last time.
  uint32_t Check(uint64_t now_ns);
  // Takes in which connections began and ended since the last time.
  void ReadEvents();

  // A number for a connection that is being let in, above all earlier ones.
  uint64_t NewNumber() {
    ReadEvents();
    return ++last_number_;
  }
  // Whether the end of connection `number` on `fd` has been read.
  bool Ended(uint64_t number, int fd) const {
    const auto end = ends_.find(fd);
    return end != ends_.end() && end->second >= number;
  }
  // Ends that were read so far, of whatever connection.
  uint64_t ends_read() const { return ends_read_; }
  // Whether any client has named its connection so far.
  bool names_used() const { return names_used_; }

  bool watching() const { return !connections_.empty(); }
  // Signals new connections; for the front end's poll set.
  zmq::socket_t& monitor() { return monitor_; }

 private:
  struct Connection {
    int fd = -1;                  // our duplicate: stays valid whatever ZeroMQ does with its own
    bool delivered = false;       // a message came since the last look
    bool heard = false;           // a message came
    uint64_t complete_bytes = 0;  // received until the last look that followed a delivery
    uint64_t window_bytes = 0;    // received when the window began, in which it sends much or has a message delivered
    uint64_t window_ns = 0;       // when that was
    bool shut = false;
  };

  void Begin(int fd);
  void Forget(int fd);
  // Received bytes that no delivered message accounts for.
  static uint64_t PendingBytes(Connection* connection);
  // Whether its messages were swallowed, because another connection has its name.
  bool Swallowed(Connection* connection, uint64_t pending_bytes, uint64_t now_ns) const;
  void Shut(Connection* connection, const std::string& why);

  const Limits limits_;
  zmq::socket_t* const socket_;
  zmq::socket_t monitor_;
  std::unordered_map<int, Connection> connections_;  // by ZeroMQ's fd
  std::unordered_map<int, uint64_t> ends_;           // by ZeroMQ's fd: last_number_ when an end of it was read last
  uint64_t ends_read_ = 0;
  uint64_t last_number_ = 0;
  bool names_used_ = false;
  uint64_t baseline_bytes_ = 0;  // anonymous memory that growth is counted from
  uint64_t next_check_ns_ = 0;
  uint64_t settled_ns_ = 0;  // memory is not judged before this
  uint32_t closed_ = 0;      // since the last look
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_CONNECTION_GUARD_H_
