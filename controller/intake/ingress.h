// Ingress: the way of a message in, from its frames to a query that the scheduler may take.
//
//   decode -> admit against the model -> quotas of the client -> block of the arena -> slot -> copy of the tensors
//
// Whatever fails on the way is answered at once with a typed refusal. Tensors are copied once, as they are, into the
// query's block; workers gather the rows of a job from there.
//
// Thread rule: the front end's thread, except SetArenaReady and SetDraining.
#ifndef ABACUS_CONTROLLER_INTAKE_INGRESS_H_
#define ABACUS_CONTROLLER_INTAKE_INGRESS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>
#include <zmq.hpp>

#include "client/protocol.h"
#include "controller/config/service_set.h"
#include "controller/intake/admission.h"
#include "controller/intake/clients.h"
#include "controller/intake/query_table.h"
#include "controller/intake/replies.h"
#include "controller/intake/tensor_arena.h"
#include "models/tensor_layout.h"
#include "shm/region.h"

namespace abacus {

// A message without the frame that names its sender.
struct Message {
  std::span<const zmq::message_t> frames;  // header, tensors
  uint64_t bytes = 0;                      // of all that came, surplus frames included
  bool surplus = false;                    // it had more than max_frames; the others are dropped
};

class Ingress {
 public:
  Ingress(const LimitsConfig& limits, ServiceSetPtr services, Region* region, QueryTable* table, TensorArena* arena,
          Clients* clients, Replies* replies);

  // The slot of the query that the message was accepted as; nullopt: it has been answered.
  std::optional<uint32_t> Handle(Peer* peer, const Message& message);

  // What is served from the next message on.
  void Serve(ServiceSetPtr services) { services_ = std::move(services); }
  void SetArenaReady() { arena_ready_.store(true, std::memory_order_release); }
  void SetDraining() { draining_.store(true, std::memory_order_release); }

 private:
  // Into request_; the rejection's message goes to the query id *id.
  tl::expected<void, Rejection> Decode(const Message& message, uint64_t* id);
  // The query of request_, accepted: its slot.
  tl::expected<uint32_t, Rejection> TakeIn(Peer* peer, std::span<const zmq::message_t> tensors);
  tl::expected<TensorArena::Block, Rejection> Allocate(uint64_t bytes);
  void CopyInputs(const TensorLayout& layout, const TensorArena::Block& block);

  const LimitsConfig limits_;
  Region& region_;
  QueryTable& table_;
  TensorArena& arena_;
  Clients& clients_;
  Replies& replies_;
  ServiceSetPtr services_;
  std::atomic<bool> arena_ready_{false};
  std::atomic<bool> draining_{false};

  // Scratch of one message, kept to save allocations.
  protocol::Request request_;
  std::vector<std::span<const std::byte>> payloads_;
  Admitted admitted_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_INGRESS_H_
