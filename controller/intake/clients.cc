#include "controller/intake/clients.h"

#include <utility>

namespace abacus {
namespace {

tl::unexpected<Rejection> Overloaded(std::string message) {
  return tl::unexpected<Rejection>({StatusCode::kOverloaded, "", std::move(message)});
}

}  // namespace

Peer* Clients::PeerOf(uint64_t number, std::string_view identity) {
  const auto [entry, is_new] = peers_.try_emplace(number, &memory_);
  if (is_new) {
    entry->second.number = number;
    entry->second.identity = identity;
  }
  return &entry->second;
}

void Clients::Sweep() {
  std::erase_if(peers_, [](const auto& entry) { return entry.second.held == 0; });
}

tl::expected<void, Rejection> Clients::CheckQuota(const Peer& peer, uint64_t id, uint64_t block_bytes) const {
  if (peer.ids.contains(id)) {
    return tl::unexpected<Rejection>(
        {StatusCode::kInvalidArgument, "id",
         "query id " + std::to_string(id) + " is in flight already; its own reply will still come"});
  }
  if (peer.queries >= limits_.max_client_queries || peer.bytes + block_bytes > limits_.max_client_bytes) {
    return Overloaded("this client has " + std::to_string(peer.queries) + " queries and " + std::to_string(peer.bytes) +
                      " bytes in flight or unread (max_client_queries, max_client_mib)");
  }
  if (queries_ >= limits_.max_queries) {
    return Overloaded("the controller holds " + std::to_string(queries_) + " queries (max_queries); retry later");
  }
  return {};
}

std::optional<uint32_t> Clients::Hold(Peer* peer) {
  const auto slot = table_.Acquire();
  if (!slot) return std::nullopt;
  table_[*slot].peer = peer;
  ++peer->held;
  in_use_.store(table_.in_use(), std::memory_order_release);
  return slot;
}

void Clients::Accepted(uint32_t slot) {
  const Query& query = table_[slot];
  ++queries_;
  ++query.peer->queries;
  query.peer->bytes += query.block.bytes;
  query.peer->ids.emplace(query.id, slot);
}

void Clients::Answered(uint32_t slot) { table_[slot].peer->ids.erase(table_[slot].id); }

void Clients::Release(uint32_t slot) {
  Query& query = table_[slot];
  --query.peer->held;
  if (query.service) {
    --queries_;
    --query.peer->queries;
    query.peer->bytes -= query.block.bytes;
  }
  query.peer = nullptr;
  query.service = nullptr;
  query.block = {};
  table_.Return(slot);
  in_use_.store(table_.in_use(), std::memory_order_release);
}

}  // namespace abacus
