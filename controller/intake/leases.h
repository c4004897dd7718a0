// Leases: memory that clients of this machine share with the controller, so that their tensors need no socket.
//
// A region is an anonymous file that client and controller map. It is sealed against shrinking and growing, so nothing
// that a client does to it can make an access of ours fail, and it is filled with zeros, so nobody finds what others
// left. Its number is random (getrandom) and is all that a query needs to name it: whoever does not know it cannot use
// the region. A client may write to its region at any moment, so values are checked in the arena's copy, never here;
// workers see no regions.
//
// Ownership: a region lives as long as anybody holds its LeasePtr: Leases while its lease is open, queries in flight
// beyond that. Thread rule: any thread. Units: bytes.
#ifndef ABACUS_CONTROLLER_INTAKE_LEASES_H_
#define ABACUS_CONTROLLER_INTAKE_LEASES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/status.h"

namespace abacus {

class SharedRegion {
 public:
  // A region of this many bytes, a multiple of the page size, all of whose memory is there. *fd is what the client
  // maps; the caller closes it. kUnavailable: memory or descriptors have run out, and nothing is left of it.
  static Result<std::shared_ptr<const SharedRegion>> Create(uint64_t bytes, int* fd);
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  uint64_t id() const { return id_; }  // never 0
  std::span<std::byte> bytes() const { return bytes_; }
  // Whether [offset, offset + bytes) lies inside.
  bool Holds(uint64_t offset, uint64_t bytes) const {
    return offset <= bytes_.size() && bytes <= bytes_.size() - offset;
  }

 private:
  SharedRegion(uint64_t id, std::span<std::byte> bytes) : id_(id), bytes_(bytes) {}
  const uint64_t id_;
  const std::span<std::byte> bytes_;
};
using LeasePtr = std::shared_ptr<const SharedRegion>;

// The regions whose leases are open.
class Leases {
 public:
  // `path`: of the socket that gives leases; empty: none are given.
  explicit Leases(std::string path = {}) : path_(std::move(path)) {}
  const std::string& path() const { return path_; }

  void Open(LeasePtr region);
  void Close(uint64_t id);
  // Null: there is no such region, or its lease has ended.
  LeasePtr Find(uint64_t id) const;

 private:
  const std::string path_;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, LeasePtr> regions_;  // protected by mutex_
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_LEASES_H_
