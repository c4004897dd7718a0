#include "client/leased_region.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "base/duration.h"

namespace abacus {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

static_assert(std::endian::native == std::endian::little, "numbers go over the socket as they lie in memory");

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr size_t kMaxDescriptors = 4;                         // that are looked at; one belongs to an answer
constexpr milliseconds kLongestWait = std::chrono::hours(1);  // for the next sign of a server, with no limit at all

struct Answer {
  uint64_t status = 0;
  uint64_t region = 0;
  uint64_t bytes = 0;
};

// Closes on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string ErrnoText() { return std::strerror(errno); }

Status ConnectTo(const std::string& path, int fd, milliseconds timeout) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path) || path.find('\0') != std::string::npos) {
    return Status(StatusCode::kUnavailable, "no lease from " + path + ": that is no path of a socket");
  }
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  // Also for connecting: it waits while the server has others to accept.
  const auto wait = std::clamp(timeout, milliseconds(1), kLongestWait);
  const timeval limit = {wait.count() / 1'000, wait.count() % 1'000 * 1'000};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  int connected = 0;
  do {
    connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (connected != 0 && errno == EINTR);
  if (connected == 0) return Status::Ok();
  if (errno == EAGAIN) return Status(StatusCode::kTimeout, path + " accepted no connection in time");
  return Status(StatusCode::kUnavailable, "no lease from " + path + ": " + ErrnoText() +
                                              "; leases are for clients on the server's machine, of its user or root");
}

// Moves the descriptors of a message to *found.
void TakeDescriptors(msghdr* message, std::vector<Descriptor>* found) {
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      found->emplace_back(fd);
    }
  }
}

Result<Answer> Receive(const std::string& path, int fd, milliseconds timeout, std::vector<Descriptor>* descriptors) {
  const auto begin = Clock::now();
  Answer answer;
  size_t received = 0;
  while (received < sizeof(answer)) {
    const auto left = timeout - std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
    pollfd item = {fd, POLLIN, 0};
    const int ready = poll(&item, 1, static_cast<int>(std::clamp(left, milliseconds(0), kLongestWait).count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0 && left > kLongestWait) continue;
    if (ready == 0) {
      return Error(StatusCode::kTimeout,
                   "no lease from " + path + " within " +
                       FormatDuration(static_cast<uint64_t>(timeout / std::chrono::nanoseconds(1))));
    }
    iovec data = {reinterpret_cast<std::byte*>(&answer) + received, sizeof(answer) - received};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxDescriptors)> control = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return Error(StatusCode::kUnavailable, "no lease from " + path + ": " + ErrnoText());
    TakeDescriptors(&message, descriptors);
    if (got == 0) {
      return Error(StatusCode::kUnavailable,
                   path + " ended the connection without a lease: it serves processes of its own user and root only");
    }
    received += static_cast<size_t>(got);
  }
  return answer;
}

// What is wrong with an answer that says OK, or an empty string.
std::string CheckGranted(const Answer& answer, const std::vector<Descriptor>& descriptors, uint64_t wanted) {
  if (answer.status != 0) return "unknown status " + std::to_string(answer.status);
  if (descriptors.size() != 1) return std::to_string(descriptors.size()) + " descriptors instead of one";
  if (answer.region == 0) return "a region without a number";
  if (answer.bytes < wanted) return std::to_string(answer.bytes) + " bytes instead of " + std::to_string(wanted);
  struct stat file = {};
  if (fstat(descriptors[0].get(), &file) != 0 || file.st_size < 0 ||
      static_cast<uint64_t>(file.st_size) < answer.bytes) {
    return "a descriptor of " + std::to_string(file.st_size) + " bytes for " + std::to_string(answer.bytes);
  }
  const int seals = fcntl(descriptors[0].get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return "memory that is not sealed: it could shrink under its user";
  return "";
}

// Whether an address of `host` is one of this machine's: then a socket can have it.
bool IsHere(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    const Descriptor probe(socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol));
    if (probe.get() >= 0 && bind(probe.get(), entry->ai_addr, entry->ai_addrlen) == 0) return true;
  }
  return false;
}

}  // namespace

Result<std::shared_ptr<LeasedRegion>> LeasedRegion::Open(const std::string& path, uint64_t bytes, uint64_t channel,
                                                         milliseconds timeout) {
  Descriptor connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connection.get() < 0) return Error(StatusCode::kUnavailable, "no socket for a lease: " + ErrnoText());
  ABACUS_RETURN_IF_ERROR(ConnectTo(path, connection.get(), timeout));
  // A server that refuses has perhaps answered and closed already: what it said still comes, so nothing is lost here.
  const ssize_t sent = send(connection.get(), &bytes, sizeof(bytes), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(sizeof(bytes)) && (sent >= 0 || errno != EPIPE)) {
    return Error(StatusCode::kUnavailable, "no lease from " + path + ": " + ErrnoText());
  }
  std::vector<Descriptor> descriptors;
  const auto answer = Receive(path, connection.get(), timeout, &descriptors);
  if (!answer) return Error(answer.error());
  if (answer->status > 0 && answer->status < kWireStatusCount) {
    return Error(static_cast<StatusCode>(answer->status),
                 path + " refuses a lease of " + std::to_string(bytes) +
                     " bytes: [limits] max_client_mib of its configuration bounds all leases of a client, and its "
                     "machine their memory");
  }
  if (const std::string wrong = CheckGranted(*answer, descriptors, bytes); !wrong.empty()) {
    return Error(StatusCode::kInternal, "malformed lease from " + path + ": " + wrong);
  }
  void* const memory =
      mmap(nullptr, answer->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors[0].get(), /*offset=*/0);
  if (memory == MAP_FAILED) {
    return Error(StatusCode::kUnavailable, "cannot map the lease of " + std::to_string(answer->bytes) + " bytes from " +
                                               path + ": " + ErrnoText());
  }
  const std::span mapped(static_cast<std::byte*>(memory), answer->bytes);
  return std::shared_ptr<LeasedRegion>(new LeasedRegion(connection.release(), answer->region, mapped, channel));
}

LeasedRegion::LeasedRegion(int fd, uint64_t id, std::span<std::byte> bytes, uint64_t channel)
    : fd_(fd), id_(id), bytes_(bytes), channel_(channel), pid_(getpid()) {}

LeasedRegion::~LeasedRegion() {
  // Ends the connection also where forked children have it; they must not end that of their parent.
  if (getpid() == pid_) shutdown(fd_, SHUT_RDWR);
  close(fd_);
  munmap(bytes_.data(), bytes_.size());
}

std::optional<uint64_t> LeasedRegion::OffsetOf(std::span<const std::byte> part) const {
  const auto begin = reinterpret_cast<uintptr_t>(bytes_.data());
  const auto at = reinterpret_cast<uintptr_t>(part.data());
  if (at < begin || !Holds(at - begin, part.size())) return std::nullopt;
  return at - begin;
}

bool LeasedRegion::Alive() const {
  // It says nothing over the connection but that it ended.
  std::byte byte;
  ssize_t got = 0;
  do {
    got = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  return got < 0 && errno == EAGAIN;
}

bool LeasedRegion::Overlaps(uint64_t offset, uint64_t bytes) const {
  const auto after = claims_.lower_bound(offset + bytes);  // the first that begins behind
  return bytes > 0 && after != claims_.begin() && std::prev(after)->second > offset;
}

bool LeasedRegion::Claim(uint64_t offset, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (Overlaps(offset, bytes)) return false;
  claims_.emplace(offset, offset + bytes);
  return true;
}

void LeasedRegion::Release(uint64_t offset) {
  const std::lock_guard lock(mutex_);
  claims_.erase(offset);
}

bool LeasedRegion::Claimed(uint64_t offset, uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  return Overlaps(offset, bytes);
}

void LeasedRegion::BeginRead(uint64_t offset, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  reads_.emplace(offset, offset + bytes);
  longest_read_bytes_ = std::max(longest_read_bytes_, bytes);
}

void LeasedRegion::EndRead(uint64_t offset, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto [begin, end] = reads_.equal_range(offset);
  const auto found = std::find_if(begin, end, [&](const auto& read) { return read.second == offset + bytes; });
  if (found != end) reads_.erase(found);
}

bool LeasedRegion::HoldsInputs(uint64_t offset, uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  // Those that begin earlier by more than the longest end in front of it.
  for (auto read = reads_.lower_bound(offset - std::min(offset, longest_read_bytes_));
       read != reads_.end() && read->first < offset + bytes; ++read) {
    if (read->second > offset) return true;
  }
  return false;
}

Result<std::string> LeaseSocketPath(const std::string& address, const std::string& told) {
  if (told.empty()) {
    return Error(StatusCode::kUnavailable, "the server at " + address +
                                               " gives no leases: [server] leases of its configuration is off, or it "
                                               "is older than they are");
  }
  constexpr std::string_view kIpc = "ipc://", kTcp = "tcp://";
  if (address.starts_with(kIpc) && !address.starts_with("ipc://@")) {
    // Beside its socket: the folder may have another name here than there.
    const std::string socket = address.substr(kIpc.size());
    return socket.substr(0, socket.rfind('/') + 1) + told.substr(told.rfind('/') + 1);
  }
  if (address.starts_with(kTcp)) {
    std::string host = address.substr(kTcp.size());
    host = host.substr(0, host.rfind(':'));
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    if (!IsHere(host)) {
      return Error(StatusCode::kUnavailable,
                   "the server at " + address + " is on another machine; leases are for clients on the server's own");
    }
  }
  return told;
}

}  // namespace abacus
