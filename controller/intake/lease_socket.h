// LeaseSocket: gives regions (leases.h) to processes of this machine over a Unix socket, and takes them back.
//
//   client                                    server
//   connect
//   u64 wanted bytes               ------->
//                                  <-------   u64 status (0 OK, else a StatusCode of the wire), u64 region, u64 bytes;
//                                             with OK a descriptor (SCM_RIGHTS) that both map
//   ... queries name the region ...
//   close, or the end of its process           the lease ends; the region goes once no query uses it any more
//
// All numbers are little endian. A connection is one lease. Bounded are the bytes of a client (a process), of all
// together, and the connections of both; memory counts until it is unmapped. A client has to send its wish soon, and
// what it does not read is never waited for. Only processes of our own user or root are served.
//
// Ownership: the socket's file goes with the object; `leases` outlives it. Thread rule: a thread of its own. Errors:
// kUnavailable names the path; clients get OVERLOADED where limits, memory or descriptors are used up.
#ifndef ABACUS_CONTROLLER_INTAKE_LEASE_SOCKET_H_
#define ABACUS_CONTROLLER_INTAKE_LEASE_SOCKET_H_

#include <poll.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "controller/intake/leases.h"

namespace abacus {

class LeaseSocket {
 public:
  struct Limits {
    uint64_t client_bytes = 0;
    uint64_t total_bytes = 0;
    uint32_t client_leases = 256;
    uint32_t total_leases = 1024;
  };

  // Listens at leases->path(). A file that is there already is replaced: the folder is ours alone (run_directory.h).
  static Result<std::unique_ptr<LeaseSocket>> Create(const Limits& limits, Leases* leases);
  ~LeaseSocket();

 private:
  struct Connection {
    int fd = -1;
    pid_t client = 0;
    uint64_t end_ns = 0;  // it has to have sent its wish by then
    std::array<std::byte, 8> wish = {};
    size_t received_bytes = 0;
    LeasePtr region;  // null: none yet
  };
  struct Client {
    uint32_t connections = 0;
    uint64_t bytes = 0;
  };
  struct EndedLease {
    pid_t client = 0;
    LeasePtr region;
  };

  LeaseSocket(const Limits& limits, Leases* leases, int listener, int stop_fd, int spare_fd);
  void Run();
  int PollTimeoutMs() const;
  void Accept();
  // With the last descriptor of the process.
  void AcceptToRefuse();
  // What came on the connection; false: it is to be ended.
  bool Receive(Connection* connection);
  // The answer to its wish; false: it is to be ended.
  bool Grant(Connection* connection);
  void End(Connection* connection);
  // Unmaps what no query uses any more.
  void Unmap();
  void Forget(pid_t client);
  void Warn(const std::string& message);

  const Limits limits_;
  Leases& leases_;
  const int listener_;
  const int stop_fd_;
  int spare_fd_;  // given up to accept a connection when there is no other descriptor left
  std::vector<Connection> connections_;
  std::vector<EndedLease> ended_;  // whose regions are still mapped
  std::unordered_map<pid_t, Client> clients_;
  uint64_t total_bytes_ = 0;
  uint32_t total_leases_ = 0;
  uint64_t next_warning_ns_ = 0;
  std::jthread thread_;
};

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_INTAKE_LEASE_SOCKET_H_
