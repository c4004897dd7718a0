// ConnectionGuard: closes TCP connections that send without ever completing a message.
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
  };

  // Watches connections that `socket` accepts; make it before the socket binds.
  ConnectionGuard(zmq::context_t* context, zmq::socket_t* socket, const Limits& limits);
  ~ConnectionGuard();

  // A message came in from connection `fd` (ZMQ_SRCFD of one of its frames).
  void Delivered(int fd);
  // Looks at all connections if a check is due. Returns how many were closed.
  uint32_t Check(uint64_t now_ns);
  bool watching() const { return !connections_.empty(); }
  // Signals new connections; for the front end's poll set.
  zmq::socket_t& monitor() { return monitor_; }

 private:
  struct Connection {
    int fd = -1;                  // our duplicate: stays valid whatever ZeroMQ does with its own
    bool delivered = false;       // a message came since the last look
    uint64_t complete_bytes = 0;  // received until the last look that followed a delivery
    bool shut = false;
  };

  void ReadEvents();
  static uint64_t PendingBytes(Connection* connection);
  void Shut(int zmq_fd, Connection* connection, const std::string& why);

  const Limits limits_;
  zmq::socket_t* const socket_;
  zmq::socket_t monitor_;
  std::unordered_map<int, Connection> connections_;  // by ZeroMQ's fd
  uint64_t baseline_bytes_ = 0;                      // anonymous memory that growth is counted from
  uint64_t next_check_ns_ = 0;
  uint64_t settled_ns_ = 0;  // memory is not judged before this
  uint32_t closed_ = 0;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_CONNECTION_GUARD_H_
