#include "controller/intake/lease_socket.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace abacus {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers go over the socket as they lie in memory");

constexpr uint64_t kWishNs = 5 * kNsPerSecond;
constexpr int kLookMs = 20;              // while something is due without a message
constexpr int kRefuseMs = 10;            // for the wish of one that gets no connection of its own
constexpr uint32_t kRefusalPlaces = 64;  // connections beyond the limits, which are there to be told so
constexpr int kBacklog = 128;

struct Answer {
  uint64_t status = 0;
  uint64_t region = 0;
  uint64_t bytes = 0;
};

// Never waits. fd -1: none goes along.
bool SendAnswer(int connection, StatusCode status, const SharedRegion* region, int fd) {
  Answer answer{static_cast<uint64_t>(status), 0, 0};
  if (region != nullptr) answer = {answer.status, region->id(), region->bytes().size()};
  iovec data = {&answer, sizeof(answer)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  }
  return sendmsg(connection, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(answer));
}

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

Result<std::unique_ptr<LeaseSocket>> LeaseSocket::Create(const Limits& limits, Leases* leases) {
  const std::string& path = leases->path();
  const auto failed = [&](const std::string& why) {
    return Error(StatusCode::kUnavailable,
                 "cannot give leases at " + path + ": " + why + "; [server] leases = false goes without");
  };
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return failed("the path is too long for a socket");
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) return failed(std::strerror(errno));
  unlink(path.c_str());
  // The mode of the socket is that of its file, from its first moment on.
  if (fchmod(listener, 0600) != 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, kBacklog) != 0) {
    const int error = errno;
    close(listener);
    return failed(std::strerror(error));
  }
  const int stop_fd = eventfd(0, EFD_CLOEXEC), spare_fd = OpenSpare();
  return std::unique_ptr<LeaseSocket>(new LeaseSocket(limits, leases, listener, stop_fd, spare_fd));
}

LeaseSocket::LeaseSocket(const Limits& limits, Leases* leases, int listener, int stop_fd, int spare_fd)
    : limits_(limits), leases_(*leases), listener_(listener), stop_fd_(stop_fd), spare_fd_(spare_fd) {
  thread_ = std::jthread([this] {
    pthread_setname_np(pthread_self(), "leases");
    Run();
  });
}

LeaseSocket::~LeaseSocket() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_fd_, &one, sizeof(one));
  thread_.join();
  unlink(leases_.path().c_str());
  for (Connection& connection : connections_) End(&connection);
  for (const int fd : {listener_, stop_fd_, spare_fd_}) {
    if (fd >= 0) close(fd);
  }
}

void LeaseSocket::Run() {
  std::vector<pollfd> items;
  for (;;) {
    items.assign({{stop_fd_, POLLIN, 0}, {listener_, POLLIN, 0}});
    for (const Connection& connection : connections_) items.push_back({connection.fd, POLLIN | POLLRDHUP, 0});
    poll(items.data(), items.size(), PollTimeoutMs());
    if (items[0].revents != 0) return;
    const uint64_t now_ns = MonotonicNs();
    // Ends come first: what a client gave back before it asks again does not count any more.
    for (size_t i = 0; i < connections_.size(); ++i) {
      const bool late = connections_[i].region == nullptr && now_ns > connections_[i].end_ns;
      if (late || (items[i + 2].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) End(&connections_[i]);
    }
    Unmap();
    for (size_t i = 0; i < connections_.size(); ++i) {
      if (connections_[i].fd < 0 || (items[i + 2].revents & POLLIN) == 0) continue;
      if (!Receive(&connections_[i])) End(&connections_[i]);
    }
    std::erase_if(connections_, [](const Connection& connection) { return connection.fd < 0; });
    if (items[1].revents != 0) Accept();
  }
}

int LeaseSocket::PollTimeoutMs() const {
  const bool wishes = std::any_of(connections_.begin(), connections_.end(),
                                  [](const Connection& connection) { return connection.region == nullptr; });
  return wishes || !ended_.empty() ? kLookMs : -1;
}

void LeaseSocket::Accept() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) AcceptToRefuse();
    return;  // else it has gone already
  }
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (peer.uid != geteuid() && peer.uid != 0)) {
    Warn("ended a connection of user " + std::to_string(peer.uid) + ", who may have no leases here");
    close(fd);
    return;
  }
  Client& client = clients_[peer.pid];
  if (connections_.size() >= limits_.total_leases + kRefusalPlaces ||
      client.connections >= limits_.client_leases + kRefusalPlaces) {
    Warn("ended a connection of process " + std::to_string(peer.pid) + ": too many for leases");
    close(fd);
    Forget(peer.pid);
    return;
  }
  ++client.connections;
  Connection& connection = connections_.emplace_back();
  connection.fd = fd;
  connection.client = peer.pid;
  connection.end_ns = MonotonicNs() + kWishNs;
}

void LeaseSocket::AcceptToRefuse() {
  Warn(std::string("no descriptor for another lease: ") + std::strerror(errno) + "; raise its limit (ulimit -n)");
  close(spare_fd_);
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    // Its wish comes with the connection; closing before that would make it find a broken pipe instead of the answer.
    pollfd item = {fd, POLLIN, 0};
    poll(&item, 1, kRefuseMs);
    SendAnswer(fd, StatusCode::kOverloaded, nullptr, -1);
    close(fd);
  } else {
    poll(nullptr, 0, kRefuseMs);  // out of kernel memory: not again at once
  }
  spare_fd_ = OpenSpare();
}

bool LeaseSocket::Receive(Connection* connection) {
  if (connection->region != nullptr) return false;  // more than a wish: it does not speak our protocol
  const ssize_t got = recv(connection->fd, connection->wish.data() + connection->received_bytes,
                           connection->wish.size() - connection->received_bytes, MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  connection->received_bytes += static_cast<size_t>(got);
  return connection->received_bytes < connection->wish.size() || Grant(connection);
}

bool LeaseSocket::Grant(Connection* connection) {
  uint64_t wanted = 0;
  std::memcpy(&wanted, connection->wish.data(), sizeof(wanted));
  const auto refuse = [&](StatusCode status) {
    SendAnswer(connection->fd, status, nullptr, -1);
    return false;
  };
  if (wanted == 0 || wanted > limits_.client_bytes) return refuse(StatusCode::kInvalidArgument);
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t bytes = (wanted + page - 1) / page * page;
  Client& client = clients_[connection->client];
  // The limits count what was asked for in whole pages, but one lease may always be as large as they say.
  const auto full = [&](uint64_t used, uint64_t limit) { return used > 0 && used + bytes > limit; };
  if (client.connections > limits_.client_leases || total_leases_ >= limits_.total_leases ||
      full(client.bytes, limits_.client_bytes) || full(total_bytes_, limits_.total_bytes)) {
    Warn("refused process " + std::to_string(connection->client) + " a lease of " + std::to_string(wanted) +
         " bytes: it has " + std::to_string(client.bytes) + ", all clients have " + std::to_string(total_bytes_) +
         " in " + std::to_string(total_leases_) + " leases (max_client_mib)");
    return refuse(StatusCode::kOverloaded);
  }
  int fd = -1;
  auto region = SharedRegion::Create(bytes, &fd);
  if (!region) {
    Warn(region.error().message());
    return refuse(StatusCode::kOverloaded);
  }
  connection->region = *region;
  client.bytes += bytes;
  total_bytes_ += bytes;
  ++total_leases_;
  leases_.Open(std::move(*region));  // its client may use it as soon as it has the answer
  const bool sent = SendAnswer(connection->fd, StatusCode::kOk, connection->region.get(), fd);
  close(fd);
  return sent;
}

void LeaseSocket::End(Connection* connection) {
  if (connection->region != nullptr) {
    --total_leases_;
    leases_.Close(connection->region->id());
    ended_.push_back({connection->client, std::move(connection->region)});
  }
  close(connection->fd);  // who sees the end may count on the lease's
  connection->fd = -1;
  --clients_[connection->client].connections;
  Forget(connection->client);
}

void LeaseSocket::Unmap() {
  std::erase_if(ended_, [this](const EndedLease& lease) {
    // Nobody can get another one where ours is the last: Leases has forgotten it.
    if (lease.region.use_count() > 1) return false;
    const uint64_t bytes = lease.region->bytes().size();
    clients_[lease.client].bytes -= bytes;
    total_bytes_ -= bytes;
    Forget(lease.client);
    return true;
  });
}

void LeaseSocket::Forget(pid_t client) {
  const auto found = clients_.find(client);
  if (found != clients_.end() && found->second.connections == 0 && found->second.bytes == 0) clients_.erase(found);
}

void LeaseSocket::Warn(const std::string& message) {
  const uint64_t now_ns = MonotonicNs();
  if (now_ns < next_warning_ns_) return;  // a flood of connections is no flood of lines
  next_warning_ns_ = now_ns + kNsPerSecond;
  LogWarn("leases: {}", message);
}

}  // namespace abacus
