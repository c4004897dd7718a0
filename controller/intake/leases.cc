#include "controller/intake/leases.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace abacus {
namespace {

// 0: the kernel gives none.
uint64_t RandomId() {
  uint64_t id = 0;
  while (id == 0) {
    const ssize_t got = getrandom(&id, sizeof(id), 0);
    if (got < 0 && errno != EINTR) return 0;
    if (got != static_cast<ssize_t>(sizeof(id))) id = 0;
  }
  return id;
}

tl::unexpected<Status> Failed(const char* what, int error) {
  return Error(StatusCode::kUnavailable, std::string("no memory to lease: ") + what + ": " + std::strerror(error));
}

}  // namespace

Result<LeasePtr> SharedRegion::Create(uint64_t bytes, int* fd) {
  const uint64_t id = RandomId();
  if (id == 0) return Failed("getrandom", errno);
  const int file = memfd_create("abacus-lease", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return Failed("memfd_create", errno);
  const auto failed = [&](const char* what) {
    const int error = errno;
    close(file);
    return Failed(what, error);
  };
  // The memory is claimed here: where there is none left, a lease fails, and no copy of a tensor later.
  if (fallocate(file, 0, 0, static_cast<off_t>(bytes)) != 0) return failed("fallocate");
  if (fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return failed("F_ADD_SEALS");
  void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
  if (address == MAP_FAILED) return failed("mmap");
  *fd = file;
  return LeasePtr(new SharedRegion(id, {static_cast<std::byte*>(address), bytes}));
}

SharedRegion::~SharedRegion() { munmap(bytes_.data(), bytes_.size()); }

void Leases::Open(LeasePtr region) {
  const std::lock_guard lock(mutex_);
  const uint64_t id = region->id();
  regions_[id] = std::move(region);
}

void Leases::Close(uint64_t id) {
  const std::lock_guard lock(mutex_);
  regions_.erase(id);
}

LeasePtr Leases::Find(uint64_t id) const {
  const std::lock_guard lock(mutex_);
  const auto found = regions_.find(id);
  return found == regions_.end() ? nullptr : found->second;
}

}  // namespace abacus
