#include "controller/intake/connection_guard.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/clock.h"
#include "base/log.h"

namespace abacus {
namespace {

constexpr uint64_t kCheckNs = 10 * kNsPerMs;
constexpr uint64_t kSettleNs = 100 * kNsPerMs;  // for ZeroMQ to drop what a closed connection held
constexpr uint64_t kSuspectBytes = 256 * 1024;  // less of a message cannot be what filled the memory
constexpr char kMonitorEndpoint[] = "inproc://abacus-connections";

// Anonymous resident memory: heap growth without the shared arena, whose pages become resident as they are used.
uint64_t AnonymousBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total = 0, resident = 0, shared = 0;
  file >> total >> resident >> shared;
  return (resident - shared) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
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

void ConnectionGuard::Delivered(int fd) {
  const auto it = connections_.find(fd);
  if (it != connections_.end()) it->second.delivered = true;
}

void ConnectionGuard::ReadEvents() {
  zmq::message_t event, address;
  while (monitor_.recv(event, zmq::recv_flags::dontwait)) {
    if (!event.more() || !monitor_.recv(address, zmq::recv_flags::none) || event.size() < 6) continue;
    uint16_t kind = 0;
    int32_t fd = -1;
    std::memcpy(&kind, event.data(), sizeof(kind));
    std::memcpy(&fd, static_cast<const char*>(event.data()) + 2, sizeof(fd));
    const auto it = connections_.find(fd);
    if (it != connections_.end()) {  // closed, or the number is in use again
      close(it->second.fd);
      connections_.erase(it);
    }
    if (kind != ZMQ_EVENT_ACCEPTED) continue;
    if (baseline_bytes_ == 0) baseline_bytes_ = AnonymousBytes();
    Connection connection;
    connection.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (connection.fd < 0) continue;  // gone already
    if (connections_.size() >= limits_.max_connections) {
      Shut(fd, &connection, "there are max_clients connections already");
    }
    connections_.emplace(fd, connection);
  }
}

uint64_t ConnectionGuard::PendingBytes(Connection* connection) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (connection->shut || getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return 0;
  // After a delivery at most one interval's bytes of the next message go uncounted.
  if (connection->delivered) connection->complete_bytes = info.tcpi_bytes_received;
  connection->delivered = false;
  return info.tcpi_bytes_received - connection->complete_bytes;
}

void ConnectionGuard::Shut(int zmq_fd, Connection* connection, const std::string& why) {
  LogWarn("closing client connection {}: {}", zmq_fd, why);
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
  closed_ = 0;
  ReadEvents();
  int worst_fd = -1;
  uint64_t worst_bytes = 0;
  for (auto& [fd, connection] : connections_) {
    const uint64_t pending = PendingBytes(&connection);
    if (pending > limits_.max_pending_bytes) {
      Shut(fd, &connection, std::to_string(pending) + " bytes without a complete message (max_message_mib)");
    } else if (pending > worst_bytes) {
      worst_fd = fd;
      worst_bytes = pending;
    }
  }
  if (now_ns < settled_ns_ || AnonymousBytes() <= baseline_bytes_ + limits_.max_growth_bytes) return closed_;
  settled_ns_ = now_ns + kSettleNs;
  if (worst_bytes < kSuspectBytes) {
    // Nobody's unfinished message: the heap keeps what is free again, or the load is real. Count from here.
    malloc_trim(0);
    baseline_bytes_ = AnonymousBytes();
  } else {
    Shut(worst_fd, &connections_[worst_fd],
         "memory grew past its limit, and this connection has " + std::to_string(worst_bytes) +
             " bytes without a complete message");
  }
  return closed_;
}

}  // namespace abacus
