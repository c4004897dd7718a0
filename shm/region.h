// Region: the mapped shared-memory segment, as its owner (the controller) or as a guest (workers, the inspector).
//
// Ownership: Create makes /dev/shm/abacus-NAME with mode 0600 and removes it when destroyed. What precedes the
// arena is allocated there and then, the arena by ReserveArena (which takes about 0.3 ms a MiB), and nobody may touch
// it before: so a full /dev/shm fails the start and never raises SIGBUS later. A segment left by a dead owner is
// recognised (owner pid and start time) and replaced; one with a live owner is refused with kAlreadyExists.
// The layout version is published last: an opener that finds it missing waits up to its deadline, then gives up.
//
// Thread rule: immutable after creation; what it points to follows the rules of layout.h.
#ifndef ABACUS_SHM_REGION_H_
#define ABACUS_SHM_REGION_H_

#include <algorithm>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "shm/layout.h"

namespace abacus {

class Region {
 public:
  enum class Access { kReadWrite, kReadOnly };

  // How many of the services and lanes are in use at first: the first ones. All blocks and slots exist.
  struct Counts {
    size_t services = 0;
    size_t lanes = 1;
  };

  // kAlreadyExists: a live controller owns the name. kUnavailable: /dev/shm is full or not usable.
  static Result<std::unique_ptr<Region>> Create(const std::string& name, Counts counts, uint64_t arena_bytes);
  // kNotFound: no such segment. kUnavailable: half-made after `timeout_ns`, another version, or damaged.
  static Result<std::unique_ptr<Region>> Open(const std::string& name, Access access, uint64_t timeout_ns);

  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  SegmentHeader& header() { return *reinterpret_cast<SegmentHeader*>(base()); }
  const SegmentHeader& header() const { return *reinterpret_cast<const SegmentHeader*>(base()); }
  // Ids below kMaxLanes, kMaxServices and kMaxWorkers.
  LaneBlock& lane(LaneId id) { return *reinterpret_cast<LaneBlock*>(base() + LaneBlockOffset(id)); }
  const LaneBlock& lane(LaneId id) const { return *reinterpret_cast<const LaneBlock*>(base() + LaneBlockOffset(id)); }
  ServiceBlock& service(ServiceId id) { return *reinterpret_cast<ServiceBlock*>(base() + ServiceBlockOffset(id)); }
  const ServiceBlock& service(ServiceId id) const {
    return *reinterpret_cast<const ServiceBlock*>(base() + ServiceBlockOffset(id));
  }
  WorkerSlot& worker(WorkerId id) { return *reinterpret_cast<WorkerSlot*>(base() + WorkerSlotOffset(id)); }
  const WorkerSlot& worker(WorkerId id) const {
    return *reinterpret_cast<const WorkerSlot*>(base() + WorkerSlotOffset(id));
  }
  // Sizes come from this process's own mapping, never from the header again after the checks of Open.
  std::span<std::byte> arena() const { return {base() + ArenaOffset(), mapping_.get_size() - ArenaOffset()}; }
  // Never beyond the segment, whatever the header says by now.
  size_t service_count() const {
    return std::min<size_t>(header().service_count.load(std::memory_order_acquire), kMaxServices);
  }
  // Owner only: services were added.
  void SetServiceCount(size_t count) {
    header().service_count.store(static_cast<uint32_t>(count), std::memory_order_release);
  }
  size_t lane_count() const { return lane_count_; }

  // Owner only: claims the memory of the arena. kUnavailable: /dev/shm is full.
  Status ReserveArena();
  // Guests: waits until the owner has done that.
  Status AwaitArena(uint64_t timeout_ns) const;

  // Gives the name back without touching live mappings; the destructor then removes nothing.
  void Unlink();

 private:
  Region(std::string shm_name, bool owner, boost::interprocess::shared_memory_object object,
         boost::interprocess::mapped_region mapping, size_t lane_count);
  std::byte* base() const { return static_cast<std::byte*>(mapping_.get_address()); }

  std::string shm_name_;
  bool owner_;
  boost::interprocess::shared_memory_object object_;
  boost::interprocess::mapped_region mapping_;
  size_t lane_count_;
};

// True when the process that made `header` still runs.
bool OwnerAlive(const SegmentHeader& header);

// NUL-terminated text in a fixed field, cut to fit; and back (stops at the end of the field if there is no NUL). Byte
// by byte, atomic: another process or thread may read while one writes, and then gets a mixture, never undefined
// behaviour.
template <size_t kBytes>
void StoreText(std::array<char, kBytes>& field, std::string_view text) {
  const size_t n = std::min(text.size(), kBytes - 1);
  for (size_t i = 0; i < kBytes; ++i) __atomic_store_n(&field[i], i < n ? text[i] : '\0', __ATOMIC_RELAXED);
}
template <size_t kBytes>
std::string LoadText(const std::array<char, kBytes>& field) {
  std::string text;
  for (const char& byte : field) {
    const char c = __atomic_load_n(&byte, __ATOMIC_RELAXED);
    if (c == '\0') break;
    text += c;
  }
  return text;
}

}  // namespace abacus

#endif  // ABACUS_SHM_REGION_H_
