// LeasedRegion: one lease of a client: the connection to the server's lease socket, and the mapping of what came over
// it (docs/protocol.md, Leases). Part of the client; programs use lease.h.
//
// It keeps account of the blocks that the server may write to, since a query that nobody waits for any more may still
// be answered: its outputs must not land in what another query is about to send or has got as its answer. And of the
// inputs that it may not have read yet.
//
// Ownership: shared by all that refers to it; its end gives the region back. Thread rule: any thread.
#ifndef ABACUS_CLIENT_LEASED_REGION_H_
#define ABACUS_CLIENT_LEASED_REGION_H_

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"

namespace abacus {

class LeasedRegion {
 public:
  // Asks the socket at `path` for `bytes`, which must not be 0. `channel` is the number of the one that may name it in
  // queries. Errors: what the server refuses with, TIMEOUT, UNAVAILABLE (nobody there, or closed without an answer),
  // INTERNAL (a malformed answer).
  static Result<std::shared_ptr<LeasedRegion>> Open(const std::string& path, uint64_t bytes, uint64_t channel,
                                                    std::chrono::milliseconds timeout);
  ~LeasedRegion();
  LeasedRegion(const LeasedRegion&) = delete;
  LeasedRegion& operator=(const LeasedRegion&) = delete;

  uint64_t id() const { return id_; }
  uint64_t channel() const { return channel_; }
  std::span<std::byte> bytes() const { return bytes_; }
  bool Holds(uint64_t offset, uint64_t bytes) const {
    return offset <= bytes_.size() && bytes <= bytes_.size() - offset;
  }
  // Where `part` begins; nullopt: it does not lie inside.
  std::optional<uint64_t> OffsetOf(std::span<const std::byte> part) const;

  // Whether the server still holds it, as far as its end of the connection tells.
  bool Alive() const;

  // Marks [offset, offset + bytes) as written to by the server; false: some of it is already.
  bool Claim(uint64_t offset, uint64_t bytes);
  void Release(uint64_t offset);
  bool Claimed(uint64_t offset, uint64_t bytes) const;

  // Marks [offset, offset + bytes) as inputs of one more query, or of one less.
  void BeginRead(uint64_t offset, uint64_t bytes);
  void EndRead(uint64_t offset, uint64_t bytes);
  bool HoldsInputs(uint64_t offset, uint64_t bytes) const;

 private:
  LeasedRegion(int fd, uint64_t id, std::span<std::byte> bytes, uint64_t channel);
  bool Overlaps(uint64_t offset, uint64_t bytes) const;

  const int fd_;  // the connection
  const uint64_t id_;
  const std::span<std::byte> bytes_;
  const uint64_t channel_;
  const pid_t pid_;
  mutable std::mutex mutex_;
  std::map<uint64_t, uint64_t> claims_;      // begin to end, disjoint; guarded by mutex_
  std::multimap<uint64_t, uint64_t> reads_;  // begin to end; guarded by mutex_
  uint64_t longest_read_bytes_ = 0;          // that there ever was; guarded by mutex_
};

// The path of the lease socket of the server at `address`, which says that it is `told`. UNAVAILABLE where the server
// gives no leases (`told` is empty) or is on another machine. May ask a name server.
Result<std::string> LeaseSocketPath(const std::string& address, const std::string& told);

}  // namespace abacus

#endif  // ABACUS_CLIENT_LEASED_REGION_H_
