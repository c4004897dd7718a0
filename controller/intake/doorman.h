// Doorman: lets connections in, each with a number that its messages carry.
//
// A client may name its connection (ZMQ_ROUTING_ID), and ZeroMQ addresses replies by that name. Two connections may
// bear one name, one after the other: a client that connects again, or one that was configured like another. The reply
// to a query of the first must not reach the second, which may well wait for a query with the same id. So a client is
// its connection, known by the number that the doorman gives it, and replies go to none that has ended
// (ConnectionGuard).
//
// The number is given while ZeroMQ shakes hands (its authentication protocol, ZAP: the number is the "user id" of the
// connection, and everybody is let in). ZeroMQ would for ever ignore a connection whose name is still that of one which
// is ending, and the end of a client's old connection may arrive a little after its new one. So once any client has
// named itself, everybody waits at the door for a moment, all at the same time. An end that comes later still is the
// guard's to mend: it shuts connections that are ignored, and their clients connect again.
//
// Thread rule: the front end's thread. Ownership: context, socket and guard outlive it; close the socket before it
// goes. Units: nanoseconds.
#ifndef ABACUS_CONTROLLER_INTAKE_DOORMAN_H_
#define ABACUS_CONTROLLER_INTAKE_DOORMAN_H_

#include <cstdint>
#include <deque>
#include <vector>
#include <zmq.hpp>

#include "controller/intake/connection_guard.h"

namespace abacus {

class Doorman {
 public:
  // For connections that `router` accepts; make it before the socket binds.
  Doorman(zmq::context_t* context, zmq::socket_t* router, ConnectionGuard* guard);

  // Lets in who may come in now.
  void LetIn(uint64_t now_ns);
  // Somebody waits at the door: LetIn is due within some milliseconds.
  bool waiting() const { return !guests_.empty(); }
  // Signals new connections; for the front end's poll set.
  zmq::socket_t& door() { return door_; }

  // The number of the connection that a frame came on.
  static uint64_t NumberOf(zmq::message_t& frame);

 private:
  struct Guest {
    uint64_t not_before_ns = 0;
    std::vector<zmq::message_t> question;  // of ZeroMQ: where the answer goes, and what it repeats
  };
  // The next who asks to be let in; false: nobody does.
  bool Ask(uint64_t now_ns);

  ConnectionGuard& guard_;
  zmq::socket_t door_;
  std::deque<Guest> guests_;  // in the order in which they came
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_DOORMAN_H_
