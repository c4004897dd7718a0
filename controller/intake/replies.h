// Replies: encodes answers, sends them straight out of the arena, and takes back what has left.
//
// Every answer occupies a slot of the QueryTable from here until ZeroMQ has released its last frame. Frames are not
// copied: the header lies in the query, outputs lie in its arena block; both stay untouched until they are released.
// Outputs that have a place in a leased region were copied there (copies.h) and have no frames.
// A reply to a client that has vanished is dropped and counted, also where another one bears its routing id by now.
//
// Thread rule: the front end's thread. Frames are released on ZeroMQ's I/O threads, which touch nothing but the table.
#ifndef ABACUS_CONTROLLER_INTAKE_REPLIES_H_
#define ABACUS_CONTROLLER_INTAKE_REPLIES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "client/protocol.h"
#include "controller/config/config.h"
#include "controller/config/service_set.h"
#include "controller/intake/clients.h"
#include "controller/intake/copies.h"
#include "controller/intake/leases.h"
#include "controller/intake/query_table.h"
#include "controller/intake/tensor_arena.h"
#include "models/tensor_layout.h"
#include "shm/region.h"

namespace abacus {

class Replies {
 public:
  Replies(const LimitsConfig& limits, zmq::socket_t* router, Region* region, QueryTable* table, TensorArena* arena,
          Clients* clients, const Leases* leases)
      : limits_(limits),
        router_(*router),
        region_(*region),
        table_(*table),
        arena_(*arena),
        clients_(*clients),
        leases_(*leases),
        places_(table->capacity()) {}

  // Answers to what is no accepted query. Not sent while the table is full of answers that nobody reads.
  void Refuse(Peer* peer, uint64_t id, const std::string& model, const Rejection& why);
  void SendModels(Peer* peer, uint64_t id, const ServiceSet& services);
  void SendHealth(Peer* peer, uint64_t id, const ServiceSet& services, bool draining);

  // Where the outputs of an accepted query go; forgotten with its terminal reply.
  void SetPlace(uint32_t slot, OutputPlace place) { places_[slot] = std::move(place); }
  const OutputPlace& place(uint32_t slot) const { return places_[slot]; }

  // The terminal reply of an accepted query, with the status, message and timing that the scheduler left in it. Outputs
  // that have a place lie there already.
  void SendResult(uint32_t slot);
  // The terminal reply of an accepted query that the scheduler was not told of: its inputs were wrong.
  void RefuseAccepted(uint32_t slot, const Rejection& why);

  // Gives back slots, blocks and quotas of all answers that have left.
  void Reclaim();

 private:
  // Empties reply_ for an answer that is no result.
  void Begin(uint64_t id);
  // What the server takes, into reply_.
  void StateLimits();
  // Sends reply_, which has no outputs, to the peer.
  void SendAnswer(Peer* peer);
  // Names the outputs of the query in reply_.
  void ListOutputs(const Query& query, const TensorLayout& layout, const OutputPlace& place);
  void FillRefusal(const Rejection& why, const std::string& model);
  // Sends reply_ as the slot's answer; its outputs lie in the query's block as `layout` says.
  void Send(uint32_t slot, const TensorLayout& layout);
  bool SendFrame(zmq::message_t* frame, bool more);

  const LimitsConfig limits_;
  zmq::socket_t& router_;
  Region& region_;
  QueryTable& table_;
  TensorArena& arena_;
  Clients& clients_;
  const Leases& leases_;
  std::vector<OutputPlace> places_;  // by slot
  protocol::Reply reply_;            // scratch of one answer, kept to save allocations
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_REPLIES_H_
