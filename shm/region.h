// Region: the mapped shared-memory segment, as its owner (the controller) or as a guest (workers, the inspector).
//
// Ownership: Create makes /dev/shm/abacus-NAME with mode 0600 and removes it when destroyed. The header and the worker
// blocks are allocated there and then, the arena by ReserveArena (which takes about 0.3 ms a MiB), and nobody may touch
// it before: so a full /dev/shm fails the start and never raises SIGBUS later. A segment left by a dead owner is
// recognised (owner pid and start time) and replaced; one with a live owner is refused with kAlreadyExists.
// The layout version is published last: an opener that finds it missing waits up to its deadline, then gives up.
//
// Thread rule: immutable after creation; what it points to follows the rules of layout.h.
#ifndef ABACUS_SHM_REGION_H_
#define ABACUS_SHM_REGION_H_

#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "shm/layout.h"
#include "shm/status.h"

namespace abacus {

class Region {
 public:
  enum class Access { kReadWrite, kReadOnly };

  // kAlreadyExists: a live controller owns the name. kUnavailable: /dev/shm is full or not usable.
  static Result<std::unique_ptr<Region>> Create(const std::string& name, size_t worker_count, uint64_t arena_bytes);
  // kNotFound: no such segment. kUnavailable: half-made after `timeout_ns`, another version, or damaged.
  static Result<std::unique_ptr<Region>> Open(const std::string& name, Access access, uint64_t timeout_ns);

  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  SegmentHeader& header() { return *reinterpret_cast<SegmentHeader*>(base()); }
  const SegmentHeader& header() const { return *reinterpret_cast<const SegmentHeader*>(base()); }
  WorkerBlock& worker(size_t index) { return *reinterpret_cast<WorkerBlock*>(base() + WorkerBlockOffset(index)); }
  const WorkerBlock& worker(size_t index) const {
    return *reinterpret_cast<const WorkerBlock*>(base() + WorkerBlockOffset(index));
  }
  // Sizes come from this process's own mapping, never from the header again after the checks of Open.
  std::span<std::byte> arena() const { return {base() + ArenaOffset(), mapping_.get_size() - ArenaOffset()}; }
  size_t worker_count() const { return worker_count_; }

  // Owner only: claims the memory of the arena. kUnavailable: /dev/shm is full.
  Status ReserveArena();
  // Guests: waits until the owner has done that.
  Status AwaitArena(uint64_t timeout_ns) const;

  // Gives the name back without touching live mappings; the destructor then removes nothing.
  void Unlink();

 private:
  Region(std::string shm_name, bool owner, boost::interprocess::shared_memory_object object,
         boost::interprocess::mapped_region mapping, size_t worker_count);
  std::byte* base() const { return static_cast<std::byte*>(mapping_.get_address()); }

  std::string shm_name_;
  bool owner_;
  boost::interprocess::shared_memory_object object_;
  boost::interprocess::mapped_region mapping_;
  size_t worker_count_;
};

// True when the process that made `header` still runs.
bool OwnerAlive(const SegmentHeader& header);

// NUL-terminated text in a fixed field, cut to fit; and back (stops at the end of the field if there is no NUL).
template <size_t kBytes>
void StoreText(std::array<char, kBytes>& field, std::string_view text) {
  const size_t n = text.size() < kBytes - 1 ? text.size() : kBytes - 1;
  for (size_t i = 0; i < kBytes; ++i) field[i] = i < n ? text[i] : '\0';
}
template <size_t kBytes>
std::string LoadText(const std::array<char, kBytes>& field) {
  size_t n = 0;
  while (n < kBytes && field[n] != '\0') ++n;
  return std::string(field.data(), n);
}

}  // namespace abacus

#endif  // ABACUS_SHM_REGION_H_
