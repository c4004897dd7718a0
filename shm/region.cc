#include "shm/region.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <thread>

#include "base/clock.h"
#include "base/process.h"

namespace abacus {
namespace {

namespace bip = boost::interprocess;

std::string ShmName(const std::string& name) { return "abacus-" + name; }

// What an existing segment of this name is. A half-made one (no version yet) counts as stale: its maker holds the
// run-directory lock while it works, and whoever calls Create holds that lock now.
enum class Existing { kNone, kStale, kLive };

Existing Classify(const std::string& shm_name) {
  try {
    bip::shared_memory_object object(bip::open_only, shm_name.c_str(), bip::read_only);
    bip::offset_t size = 0;
    if (!object.get_size(size) || size < static_cast<bip::offset_t>(kHeaderBytes)) return Existing::kStale;
    bip::mapped_region mapping(object, bip::read_only, 0, kHeaderBytes);
    const auto& header = *static_cast<const SegmentHeader*>(mapping.get_address());
    if (header.magic != kSegmentMagic) return Existing::kStale;
    if (header.layout_version.load(std::memory_order_acquire) == 0) return Existing::kStale;
    return OwnerAlive(header) ? Existing::kLive : Existing::kStale;
  } catch (const bip::interprocess_exception& e) {
    return e.get_error_code() == bip::not_found_error ? Existing::kNone : Existing::kStale;
  }
}

// fallocate, not truncate: claims the pages now. EINTR is retried; anything else means that there is no room.
Status Claim(const bip::shared_memory_object& object, uint64_t offset_bytes, uint64_t bytes, const std::string& shown) {
  int rc = 0;
  do {
    rc = posix_fallocate(object.get_mapping_handle().handle, static_cast<off_t>(offset_bytes),
                         static_cast<off_t>(bytes));
  } while (rc == EINTR);
  if (rc == 0) return Status::Ok();
  return {StatusCode::kUnavailable, "cannot reserve " + std::to_string(bytes >> 20) + " MiB for " + shown + ": " +
                                        std::strerror(rc) + "; free space there or lower [server] arena_mib"};
}

}  // namespace

bool OwnerAlive(const SegmentHeader& header) {
  const auto ticks = ProcessStartTicks(header.owner_pid);
  return ticks && *ticks == header.owner_start_ticks;
}

Region::Region(std::string shm_name, bool owner, bip::shared_memory_object object, bip::mapped_region mapping,
               size_t lane_count)
    : shm_name_(std::move(shm_name)),
      owner_(owner),
      object_(std::move(object)),
      mapping_(std::move(mapping)),
      lane_count_(lane_count) {}

Status Region::ReserveArena() {
  ABACUS_RETURN_IF_ERROR(Claim(object_, ArenaOffset(), mapping_.get_size() - ArenaOffset(), "/dev/shm/" + shm_name_));
  header().arena_reserved.store(1, std::memory_order_release);  // SYNC POINT: pairs with AwaitArena's acquire
  return Status::Ok();
}

Region::~Region() { Unlink(); }

void Region::Unlink() {
  if (owner_) bip::shared_memory_object::remove(shm_name_.c_str());
  owner_ = false;
}

Status Region::AwaitArena(uint64_t timeout_ns) const {
  const uint64_t deadline_ns = MonotonicNs() + timeout_ns;
  while (header().arena_reserved.load(std::memory_order_acquire) == 0) {
    if (MonotonicNs() >= deadline_ns) return {StatusCode::kTimeout, "the controller does not reserve the arena"};
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return Status::Ok();
}

Result<std::unique_ptr<Region>> Region::Create(const std::string& name, Counts counts, uint64_t arena_bytes) {
  const std::string shm_name = ShmName(name);
  const std::string shown = "/dev/shm/" + shm_name;
  if (counts.services > kMaxServices || counts.lanes > kMaxLanes) {
    return Error(StatusCode::kInvalidArgument,
                 "more than " + std::to_string(kMaxServices) + " services or " + std::to_string(kMaxLanes) + " GPUs");
  }
  switch (Classify(shm_name)) {
    case Existing::kLive:
      return Error(StatusCode::kAlreadyExists,
                   shown + " belongs to a running controller; stop it or choose another [server] name");
    case Existing::kStale:
      bip::shared_memory_object::remove(shm_name.c_str());
      break;
    case Existing::kNone:
      break;
  }
  try {
    bip::permissions owner_only(0600);
    bip::shared_memory_object object(bip::create_only, shm_name.c_str(), bip::read_write, owner_only);
    const uint64_t total_bytes = ArenaOffset() + arena_bytes;
    // Not object.truncate(): newer versions of Boost allocate the whole segment there.
    if (ftruncate(object.get_mapping_handle().handle, static_cast<off_t>(total_bytes)) != 0) {
      bip::shared_memory_object::remove(shm_name.c_str());
      return Error(StatusCode::kUnavailable, "cannot size " + shown + ": " + std::strerror(errno));
    }
    if (Status claimed = Claim(object, 0, ArenaOffset(), shown); !claimed.ok()) {
      bip::shared_memory_object::remove(shm_name.c_str());
      return Error(std::move(claimed));
    }
    bip::mapped_region mapping(object, bip::read_write);
    auto* base = static_cast<std::byte*>(mapping.get_address());
    auto* header = new (base) SegmentHeader();
    for (size_t i = 0; i < kMaxLanes; ++i) new (base + LaneBlockOffset(LaneId(i))) LaneBlock();
    for (size_t i = 0; i < kMaxServices; ++i) new (base + ServiceBlockOffset(ServiceId(i))) ServiceBlock();
    for (size_t i = 0; i < kMaxWorkers; ++i) new (base + WorkerSlotOffset(WorkerId(i))) WorkerSlot();
    header->magic = kSegmentMagic;
    header->service_count.store(static_cast<uint32_t>(counts.services), std::memory_order_relaxed);
    header->lane_count = static_cast<uint32_t>(counts.lanes);
    header->total_bytes = total_bytes;
    header->arena_offset_bytes = ArenaOffset();
    header->arena_bytes = arena_bytes;
    header->owner_pid = getpid();
    header->owner_start_ticks = ProcessStartTicks(getpid()).value_or(0);
    header->started_ns = MonotonicNs();
    header->layout_version.store(kLayoutVersion, std::memory_order_release);  // SYNC POINT: pairs with Open's acquire
    return std::unique_ptr<Region>(new Region(shm_name, true, std::move(object), std::move(mapping), counts.lanes));
  } catch (const bip::interprocess_exception& e) {
    return Error(StatusCode::kUnavailable, "cannot create " + shown + ": " + e.what());
  }
}

Result<std::unique_ptr<Region>> Region::Open(const std::string& name, Access access, uint64_t timeout_ns) {
  const std::string shm_name = ShmName(name);
  const std::string shown = "/dev/shm/" + shm_name;
  const auto mode = access == Access::kReadOnly ? bip::read_only : bip::read_write;
  const uint64_t deadline_ns = MonotonicNs() + timeout_ns;
  for (;;) {
    try {
      bip::shared_memory_object object(bip::open_only, shm_name.c_str(), mode);
      bip::offset_t size = 0;
      if (object.get_size(size) && static_cast<uint64_t>(size) >= ArenaOffset()) {
        bip::mapped_region mapping(object, mode);
        const auto& header = *static_cast<const SegmentHeader*>(mapping.get_address());
        const uint32_t version = header.layout_version.load(std::memory_order_acquire);  // SYNC POINT: Create's release
        if (version != 0) {
          if (header.magic != kSegmentMagic || version != kLayoutVersion) {
            return Error(StatusCode::kUnavailable, shown + " was made by another version of Abacus (layout " +
                                                       std::to_string(version) + ", this program has " +
                                                       std::to_string(kLayoutVersion) + ")");
          }
          const size_t lanes = header.lane_count;
          if (header.total_bytes != mapping.get_size() || header.service_count.load() > kMaxServices ||
              lanes > kMaxLanes) {
            return Error(StatusCode::kUnavailable, shown + " is damaged: its size does not match its header");
          }
          return std::unique_ptr<Region>(new Region(shm_name, false, std::move(object), std::move(mapping), lanes));
        }
      }
    } catch (const bip::interprocess_exception& e) {
      if (e.get_error_code() == bip::not_found_error) {
        return Error(StatusCode::kNotFound, shown + " does not exist: no controller of that name runs");
      }
      return Error(StatusCode::kUnavailable, "cannot open " + shown + ": " + e.what());
    }
    if (MonotonicNs() >= deadline_ns) {
      return Error(StatusCode::kUnavailable, shown + " is half made and its maker does not finish");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace abacus
