// FrontEnd: the thread that owns the client sockets, and nothing but its loop.
//
//   message --> Ingress --> submitted --> scheduler --> done --> Replies --> socket
//                  \--> CopyPool --/                     \--> CopyPool --/
//
// Large inputs, and large outputs that go to a leased region, take the way below: copied by other threads.
// Clients counts what each client makes the controller hold, ConnectionGuard cuts off those that send without end; both
// bound what a client can do to the others. Doorman tells connections apart, so that no client gets another's replies.
//
// Queries whose client took them back, or whose connection has ended, are cancelled: the scheduler is told so, after
// the query itself and at most once.
//
// Ownership: region, table, channel and leases outlive it; it owns sockets, arena bookkeeping and free slots.
// Thread rule: everything on the front end's own thread (Run), except Publish, Wake, SetArenaReady, SetDraining,
// SetClosed, Copying and InUse, which any thread may call.
#ifndef ABACUS_CONTROLLER_INTAKE_FRONT_END_H_
#define ABACUS_CONTROLLER_INTAKE_FRONT_END_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "base/mailbox.h"
#include "base/status.h"
#include "base/waker.h"
#include "controller/config/config.h"
#include "controller/config/service_set.h"
#include "controller/intake/clients.h"
#include "controller/intake/connection_guard.h"
#include "controller/intake/copy_pool.h"
#include "controller/intake/doorman.h"
#include "controller/intake/ingress.h"
#include "controller/intake/leases.h"
#include "controller/intake/query_table.h"
#include "controller/intake/replies.h"
#include "controller/intake/tensor_arena.h"
#include "shm/region.h"

namespace abacus {

class FrontEnd {
 public:
  // Binds every endpoint. kUnavailable names the endpoint that is taken or not valid.
  static Result<std::unique_ptr<FrontEnd>> Create(const ServerConfig& server, const LimitsConfig& limits,
                                                  ServiceSetPtr services, const std::string& ipc_path, Region* region,
                                                  QueryTable* table, QueryChannel* channel, const Leases* leases,
                                                  std::function<void()> wake_scheduler);
  ~FrontEnd();

  void Run(const std::atomic<bool>& stop);
  void Wake() { waker_.Wake(); }
  // From soon on this set is served. Queries that were accepted before keep the service that admitted them.
  void Publish(ServiceSetPtr services);
  // The arena's memory is there; until then queries with tensors get OVERLOADED.
  void SetArenaReady() { ingress_.SetArenaReady(); }
  // From now on new queries get SHUTTING_DOWN.
  void SetDraining() { ingress_.SetDraining(); }
  // From now on what the scheduler does not have yet is answered SHUTTING_DOWN; SetDraining came before.
  void SetClosed() { closed_.store(true, std::memory_order_release); }
  // Accepted queries that the scheduler does not have yet, or not any more, since their tensors are being copied.
  uint32_t Copying() const { return copies_.held(); }
  // Queries and other answers that have not left yet.
  uint32_t InUse() const { return clients_.in_use(); }
  // The addresses as bound (a port of 0 resolved).
  const std::vector<std::string>& endpoints() const { return endpoints_; }

 private:
  FrontEnd(const ServerConfig& server, const LimitsConfig& limits, ServiceSetPtr services, Region* region,
           QueryTable* table, QueryChannel* channel, const Leases* leases, std::function<void()> wake_scheduler);
  Status Bind(const std::string& endpoint);

  size_t SendFinished();
  // Sends the terminal reply, or has its outputs copied first.
  void Finish(uint32_t slot);
  size_t TakeCopied();
  // A thread has copied the inputs of this query.
  void TakeCopiedInputs(const TensorCopy& copy);
  size_t ReceiveSome();
  bool ReceiveOne();
  // A message from `identity`; its frames are in frames_.
  void Take(const zmq::message_t& identity, const Message& message);
  // The rest of the message whose first frame was received, into frames_.
  Message ReceiveFrames(bool more);
  void CheckConnections(uint64_t now_ns);
  void CancelVanished();
  // Whether the peer's connection has ended is known from here on.
  Peer& CheckGone(uint32_t slot);
  // Hands submitted_ over.
  void Submit();
  void Sleep(const std::atomic<bool>& stop);

  Region& region_;
  QueryTable& table_;
  QueryChannel& channel_;
  const std::function<void()> wake_scheduler_;
  Waker waker_;
  Mailbox<ServiceSetPtr> published_;

  zmq::context_t context_;
  zmq::socket_t router_;
  std::unique_ptr<ConnectionGuard> guard_;
  std::unique_ptr<Doorman> doorman_;
  std::vector<std::string> endpoints_;

  TensorArena arena_;
  Clients clients_;
  CopyPool copies_;
  Replies replies_;
  Ingress ingress_;
  std::atomic<bool> closed_{false};
  uint64_t ends_seen_ = 0;  // of connections, whose queries were cancelled
  uint64_t next_sweep_ns_ = 0;
  std::vector<uint32_t> submitted_;     // for the scheduler, handed over together
  std::vector<zmq::message_t> frames_;  // of one message, max_frames of them; kept to save allocations
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_FRONT_END_H_
