#include "controller/intake/connection_guard.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/clock.h"
#include "base/log.h"

namespace abacus {
namespace {

constexpr uint64_t kCheckNs = 10 * kNsPerMs;
constexpr uint64_t kSettleNs = 100 * kNsPerMs;  // for ZeroMQ to drop what a closed connection held
constexpr uint64_t kSuspectBytes = 256 * 1024;  // less of a message cannot be what filled the memory
constexpr uint64_t kSwallowedNs = 2 * kNsPerSecond;
constexpr uint64_t kSlowBytes = 64 * 1024;  // whoever sends more than this in that time may be in a long message
constexpr uint64_t kHandshakeBytes = 512;   // the most that a client sends before its first message
constexpr char kMonitorEndpoint[] = "inproc://abacus-connections";

// Anonymous resident memory: heap growth without the shared arena, whose pages become resident as they are used.
uint64_t AnonymousBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total = 0, resident = 0, shared = 0;
  file >> total >> resident >> shared;
  return (resident - shared) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// The other end's address, for the log.
std::string PeerName(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "of a client that has gone";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    return "from " + std::string(text.data()) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    return "from [" + std::string(text.data()) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  return "from this machine (ipc)";
}

// Whether the other end has closed it.
bool ClosedByPeer(int fd) {
  pollfd poll_fd = {fd, POLLRDHUP, 0};
  return poll(&poll_fd, 1, 0) > 0;
}

uint64_t ReceivedBytes(int fd) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_received : 0;
}

}  // namespace

ConnectionGuard::ConnectionGuard(zmq::context_t* context, zmq::socket_t* socket, const Limits& limits)
    : limits_(limits), socket_(socket), monitor_(*context, zmq::socket_type::pair) {
  zmq_socket_monitor(socket->handle(), kMonitorEndpoint,
                     ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED);
  monitor_.connect(kMonitorEndpoint);
}

ConnectionGuard::~ConnectionGuard() {
  zmq_socket_monitor(socket_->handle(), nullptr, 0);
  for (const auto& [fd, connection] : connections_) close(connection.fd);
}

void ConnectionGuard::Delivered(int fd, bool named) {
  names_used_ |= named;
  auto it = connections_.find(fd);
  if (it == connections_.end()) {
    ReadEvents();  // a first message may come before the look at which its connection becomes known
    it = connections_.find(fd);
  }
  if (it == connections_.end()) return;
  it->second.delivered = true;
  it->second.heard = true;
}

void ConnectionGuard::ReadEvents() {
  zmq::message_t event, address;
  while (monitor_.recv(event, zmq::recv_flags::dontwait)) {
    if (!event.more() || !monitor_.recv(address, zmq::recv_flags::none) || event.size() < 6) continue;
    uint16_t kind = 0;
    int32_t fd = -1;
    std::memcpy(&kind, event.data(), sizeof(kind));
    std::memcpy(&fd, static_cast<const char*>(event.data()) + 2, sizeof(fd));
    Forget(fd);  // closed, or the number is in use again
    if (kind == ZMQ_EVENT_ACCEPTED) {
      Begin(fd);
    } else {
      ends_[fd] = last_number_;
      ++ends_read_;
    }
  }
}

void ConnectionGuard::Begin(int fd) {
  if (baseline_bytes_ == 0) baseline_bytes_ = AnonymousBytes();
  Connection connection;
  connection.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (connection.fd < 0) return;  // gone already
  if (connections_.size() >= limits_.max_connections) {
    Shut(&connection, "there are " + std::to_string(limits_.max_connections) + " connections already (max_clients)");
  }
  connections_.emplace(fd, connection);
}

void ConnectionGuard::Forget(int fd) {
  const auto it = connections_.find(fd);
  if (it == connections_.end()) return;
  const Connection& connection = it->second;
  // Our duplicate still holds it open, so what nobody closed at the other end was ended by ZeroMQ. Less than a
  // handshake is no client of ours but somebody who looks what listens here.
  if (!connection.shut && !ClosedByPeer(connection.fd) && ReceivedBytes(connection.fd) > kHandshakeBytes) {
    LogWarn("ended the client connection {}: a frame of more than {} bytes (twice max_message_mib), or a broken one",
            PeerName(connection.fd), limits_.max_frame_bytes);
    ++closed_;
  }
  close(connection.fd);
  connections_.erase(it);
}

uint64_t ConnectionGuard::PendingBytes(Connection* connection) {
  if (connection->shut) return 0;
  const uint64_t received = ReceivedBytes(connection->fd);
  // After a delivery at most one interval's bytes of the next message go uncounted.
  if (connection->delivered) connection->complete_bytes = received;
  connection->delivered = false;
  return received - connection->complete_bytes;
}

bool ConnectionGuard::Swallowed(Connection* connection, uint64_t pending_bytes, uint64_t now_ns) const {
  const bool nothing_sent = connection->window_bytes <= kHandshakeBytes;
  if (connection->heard || nothing_sent || pending_bytes > connection->window_bytes + kSlowBytes) {
    connection->window_bytes = pending_bytes;
    connection->window_ns = now_ns;
    return false;
  }
  return names_used_ && now_ns > connection->window_ns + kSwallowedNs;
}

void ConnectionGuard::Shut(Connection* connection, const std::string& why) {
  LogWarn("closing the client connection {}: {}", PeerName(connection->fd), why);
  // With linger 0 the last close resets the connection, so the peer learns of it even while our window is closed.
  const linger reset{1, 0};
  setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  shutdown(connection->fd, SHUT_RDWR);  // ZeroMQ sees the end and closes its descriptor; we close ours when it says so
  connection->shut = true;
  ++closed_;
}

uint32_t ConnectionGuard::Check(uint64_t now_ns) {
  if (now_ns < next_check_ns_) return 0;
  next_check_ns_ = now_ns + kCheckNs;
  ReadEvents();
  Connection* worst = nullptr;
  uint64_t worst_bytes = 0;
  for (auto& [fd, connection] : connections_) {
    const uint64_t pending = PendingBytes(&connection);
    if (pending > limits_.max_pending_bytes) {
      Shut(&connection, std::to_string(pending) + " bytes without a complete message, more than " +
                            std::to_string(limits_.max_pending_bytes) + " (twice max_message_mib)");
    } else if (Swallowed(&connection, pending, now_ns)) {
      Shut(&connection,
           "another connection has the same ZeroMQ routing id, so nothing that came on this one is delivered; every "
           "client needs a routing id of its own, or none");
    } else if (pending > worst_bytes) {
      worst = &connection;
      worst_bytes = pending;
    }
  }
  if (now_ns >= settled_ns_ && AnonymousBytes() > baseline_bytes_ + limits_.max_growth_bytes) {
    settled_ns_ = now_ns + kSettleNs;
    if (worst_bytes < kSuspectBytes) {
      // Nobody's unfinished message: the heap keeps what is free again, or the load is real. Count from here.
      malloc_trim(0);
      baseline_bytes_ = AnonymousBytes();
    } else {
      Shut(worst, "memory grew past its limit, and this connection has " + std::to_string(worst_bytes) +
                      " bytes without a complete message");
    }
  }
  return std::exchange(closed_, 0);
}

}  // namespace abacus
