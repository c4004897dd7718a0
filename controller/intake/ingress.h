// Ingress: the way of a message in, from its frames to a query that the scheduler may take.
//
//   decode -> admit against the model -> quotas of the client -> block of the arena -> slot -> copy of the tensors
//
// Whatever fails on the way is answered at once with a typed refusal. Tensors are copied once, as they are, into the
// query's block, and checked there; workers gather the rows of a job from there. Large ones are copied by the CopyPool;
// their queries are accepted then, but go to the scheduler when the copy is done (FrontEnd).
//
// Thread rule: the front end's thread, except SetArenaReady and SetDraining.
#ifndef ABACUS_CONTROLLER_INTAKE_INGRESS_H_
#define ABACUS_CONTROLLER_INTAKE_INGRESS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>
#include <zmq.hpp>

#include "client/protocol.h"
#include "controller/config/service_set.h"
#include "controller/intake/admission.h"
#include "controller/intake/clients.h"
#include "controller/intake/copies.h"
#include "controller/intake/copy_pool.h"
#include "controller/intake/leases.h"
#include "controller/intake/query_table.h"
#include "controller/intake/replies.h"
#include "controller/intake/tensor_arena.h"
#include "models/tensor_layout.h"
#include "shm/region.h"

namespace abacus {

// A message without the frame that names its sender.
struct Message {
  std::span<zmq::message_t> frames;  // header, tensors; tensors are moved from
  uint64_t bytes = 0;                // of all that came, surplus frames included
  bool surplus = false;              // it had more than max_frames; the others are dropped
};

class Ingress {
 public:
  Ingress(const LimitsConfig& limits, ServiceSetPtr services, Region* region, QueryTable* table, TensorArena* arena,
          Clients* clients, Replies* replies, const Leases* leases, CopyPool* copies);

  // What the scheduler is to be told for the message (QueryChannel::submitted): the slot of the query that it was
  // accepted as, or that a query is cancelled. nullopt: nothing, or nothing yet.
  std::optional<uint32_t> Handle(Peer* peer, const Message& message);
  // What the scheduler is to be told so that it cancels this query. nullopt: it has been told, or is when it gets the
  // query.
  std::optional<uint32_t> Cancel(uint32_t slot);

  // What is served from the next message on.
  void Serve(ServiceSetPtr services) { services_ = std::move(services); }
  void SetArenaReady() { arena_ready_.store(true, std::memory_order_release); }
  void SetDraining() { draining_.store(true, std::memory_order_release); }

 private:
  // Into request_; the rejection's message goes to the query id *id.
  tl::expected<void, Rejection> Decode(const Message& message, uint64_t* id);
  // The query of request_, accepted: its slot, or nullopt where it is not to be told yet.
  tl::expected<std::optional<uint32_t>, Rejection> TakeIn(Peer* peer, std::span<zmq::message_t> tensors);
  // Where the bytes of the inputs are: into copy_->sources.
  tl::expected<void, Rejection> FindInputs(std::span<zmq::message_t> tensors);
  // Where the outputs are wanted.
  tl::expected<OutputPlace, Rejection> FindOutputs(const TensorLayout& layout) const;
  tl::expected<TensorArena::Block, Rejection> Allocate(uint64_t bytes);

  const LimitsConfig limits_;
  Region& region_;
  QueryTable& table_;
  TensorArena& arena_;
  Clients& clients_;
  Replies& replies_;
  const Leases& leases_;
  CopyPool& copies_;
  ServiceSetPtr services_;
  std::atomic<bool> arena_ready_{false};
  std::atomic<bool> draining_{false};

  // Scratch of one message, kept to save allocations.
  protocol::Request request_;
  std::unique_ptr<TensorCopy> copy_;
  std::vector<std::span<const std::byte>> payloads_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_INGRESS_H_
