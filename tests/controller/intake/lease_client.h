// A client of the lease socket without the client library: it may do what it likes.
#ifndef ABACUS_TESTS_CONTROLLER_INTAKE_LEASE_CLIENT_H_
#define ABACUS_TESTS_CONTROLLER_INTAKE_LEASE_CLIENT_H_

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/status.h"

namespace abacus::test {

class LeaseClient {
 public:
  explicit LeaseClient(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const timeval patience = {30, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  LeaseClient(LeaseClient&& other) noexcept
      : id(other.id),
        fd_(std::exchange(other.fd_, -1)),
        connected_(other.connected_),
        file_(std::exchange(other.file_, -1)),
        bytes_(std::exchange(other.bytes_, {})) {}
  LeaseClient& operator=(LeaseClient&&) = delete;
  LeaseClient(const LeaseClient&) = delete;
  LeaseClient& operator=(const LeaseClient&) = delete;
  ~LeaseClient() {
    Close();
    if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
    if (file_ >= 0) close(file_);
  }

  bool connected() const { return connected_; }
  bool Send(const void* data, size_t size) { return send(fd_, data, size, MSG_NOSIGNAL) == static_cast<ssize_t>(size); }
  // The status of the answer; nullopt: the connection ended without one.
  std::optional<StatusCode> ReceiveAnswer() {
    std::array<uint64_t, 3> answer = {};
    iovec data = {answer.data(), sizeof(answer)};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (recvmsg(fd_, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(sizeof(answer))) {
      return std::nullopt;
    }
    const cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) std::memcpy(&file_, CMSG_DATA(rights), sizeof(file_));
    id = answer[1];
    if (file_ >= 0) {
      void* const address = mmap(nullptr, answer[2], PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
      if (address != MAP_FAILED) bytes_ = {static_cast<std::byte*>(address), answer[2]};
    }
    return static_cast<StatusCode>(answer[0]);
  }
  std::optional<StatusCode> Lease(uint64_t wanted) {
    if (!Send(&wanted, sizeof(wanted))) return std::nullopt;
    return ReceiveAnswer();
  }
  // The server has ended the connection.
  bool Ended() {
    char byte = 0;
    const ssize_t got = recv(fd_, &byte, 1, 0);
    return got == 0 || (got < 0 && errno == ECONNRESET);  // reset: with bytes that it had not read
  }
  // Gives the lease back; the mapping stays.
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

  std::span<std::byte> bytes() const { return bytes_; }
  int file() const { return file_; }  // the region's
  void Fill(uint64_t offset, const std::string& text) { std::memcpy(bytes_.data() + offset, text.data(), text.size()); }
  std::string Read(uint64_t offset, uint64_t size) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, size};
  }

  uint64_t id = 0;  // of the region

 private:
  int fd_;
  bool connected_ = false;
  int file_ = -1;
  std::span<std::byte> bytes_;
};

}  // namespace abacus::test

#endif  // ABACUS_TESTS_CONTROLLER_INTAKE_LEASE_CLIENT_H_
