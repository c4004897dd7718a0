// Clients: who is connected, and what each of them makes the controller hold.
//
// Bounded are queries and bytes per client and queries over all (LimitsConfig), counted from acceptance until ZeroMQ
// has handed the reply to the kernel. A refusal costs the same slot as a query until it was read, so a client that
// floods and never reads is cut off once it holds 2 * max_client_queries unread replies; the others do not notice.
//
// Ownership: peers live from their first message until a sweep finds that they hold nothing; slots belong to the table.
// Thread rule: the front end's thread, except in_use. Units: bytes.
#ifndef ABACUS_CONTROLLER_INTAKE_CLIENTS_H_
#define ABACUS_CONTROLLER_INTAKE_CLIENTS_H_

#include <atomic>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "controller/config/config.h"
#include "controller/intake/admission.h"
#include "controller/intake/query_table.h"

namespace abacus {

// One connection. A client that connects again is another peer, whatever it calls itself.
struct Peer {
  explicit Peer(std::pmr::memory_resource* memory) : ids(memory) {}
  uint64_t number = 0;   // of the connection (doorman.h)
  std::string identity;  // ZeroMQ routing id: where its replies go
  int fd = -1;           // of the connection, -1: not asked for yet; only to attribute bytes to it
  bool gone = false;     // the connection has ended: no more replies, its routing id may be another's
  uint32_t held = 0;     // slots: queries and other answers that have not left yet
  uint32_t queries = 0;  // accepted ones among them
  uint64_t bytes = 0;    // arena bytes of its queries
  std::pmr::unordered_map<uint64_t, uint32_t> ids;  // of its queries without a reply: their slots
};

class Clients {
 public:
  Clients(const LimitsConfig& limits, QueryTable* table) : limits_(limits), table_(*table) {}

  // The peer of this connection, a new one at its first message.
  Peer* PeerOf(uint64_t number, std::string_view identity);
  // Forgets the peers that hold nothing.
  void Sweep();
  size_t size() const { return peers_.size(); }

  // It holds so many answers that it cannot be reading them.
  bool CutOff(const Peer& peer) const { return peer.held >= 2 * limits_.max_client_queries; }
  // Whether the peer may have one more query with this id and this many bytes of tensors.
  tl::expected<void, Rejection> CheckQuota(const Peer& peer, uint64_t id, uint64_t block_bytes) const;

  // The slot of the peer's query with this id; nullopt: it has none without a reply.
  static std::optional<uint32_t> QueryOf(const Peer& peer, uint64_t id) {
    const auto found = peer.ids.find(id);
    return found == peer.ids.end() ? std::nullopt : std::optional(found->second);
  }
  // Calls handle(slot) for every query without a reply of the peers that `which` holds for.
  template <class Which, class Handle>
  void ForQueriesOf(const Which& which, const Handle& handle) const {
    for (const auto& [number, peer] : peers_) {
      if (peer.ids.empty() || !which(peer)) continue;
      for (const auto& [id, slot] : peer.ids) handle(slot);
    }
  }

  // A slot for an answer to the peer; nullopt: the table is full.
  std::optional<uint32_t> Hold(Peer* peer);

  // The slot carries an accepted query: its id, service and block are set.
  void Accepted(uint32_t slot);
  // The query's terminal reply is being sent: its id may be used again.
  void Answered(uint32_t slot);
  // The answer has left (and the block is free): gives the slot back.
  void Release(uint32_t slot);

  // Slots that are held. Any thread.
  uint32_t in_use() const { return in_use_.load(std::memory_order_acquire); }

 private:
  const LimitsConfig limits_;
  QueryTable& table_;
  std::pmr::unsynchronized_pool_resource memory_;  // nodes of Peer::ids
  std::unordered_map<uint64_t, Peer> peers_;       // by number; nodes keep their address
  uint32_t queries_ = 0;                           // accepted ones whose reply has not left, over all peers
  std::atomic<uint32_t> in_use_{0};
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_CLIENTS_H_
