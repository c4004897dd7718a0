#include "tests/client/fake_lease_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace abacus {
namespace {

std::atomic<int> g_next_path{0};

void Send(int fd, const FakeLeaseServer::Answer& answer) {
  if (answer.bytes.empty()) return;
  iovec data = {const_cast<std::byte*>(answer.bytes.data()), answer.bytes.size()};
  std::vector<char> control(CMSG_SPACE(sizeof(int) * answer.descriptors.size()));
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!answer.descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * answer.descriptors.size());
    std::memcpy(CMSG_DATA(rights), answer.descriptors.data(), sizeof(int) * answer.descriptors.size());
  }
  sendmsg(fd, &message, MSG_NOSIGNAL);
}

}  // namespace

FakeLeaseServer::FakeLeaseServer(Answerer answerer) : answerer_(std::move(answerer)) {
  path_ = ::testing::TempDir() + "lease_" + std::to_string(getpid()) + "_" + std::to_string(g_next_path++) + ".sock";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
  unlink(path_.c_str());
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0) << path_;
  EXPECT_EQ(listen(listener_, 16), 0);
  EXPECT_EQ(pipe2(stop_.data(), O_CLOEXEC), 0);
  thread_ = std::thread([this] { Run(); });
}

FakeLeaseServer::~FakeLeaseServer() {
  close(stop_[1]);
  thread_.join();
  EndLeases();
  close(stop_[0]);
  close(listener_);
  unlink(path_.c_str());
}

std::vector<std::byte> FakeLeaseServer::Numbers(uint64_t status, uint64_t region, uint64_t bytes) {
  const std::array<uint64_t, 3> numbers = {status, region, bytes};
  const auto raw = std::as_bytes(std::span(numbers));
  return {raw.begin(), raw.end()};
}

int FakeLeaseServer::Memory(uint64_t bytes, int seals) {
  const int fd = memfd_create("lease", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals == kAllSeals ? F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL : seals), 0);
  return fd;
}

std::span<std::byte> FakeLeaseServer::Region(uint64_t id) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(leases_.begin(), leases_.end(), [&](const Lease& lease) { return lease.id == id; });
  return found == leases_.end() ? std::span<std::byte>() : found->bytes;
}

bool FakeLeaseServer::WaitForLeases(size_t count) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return leases_.size() == count; });
}

void FakeLeaseServer::EndLeases() {
  const std::lock_guard lock(mutex_);
  for (Lease& lease : leases_) End(&lease);
  leases_.clear();
  changed_.notify_all();
}

void FakeLeaseServer::End(Lease* lease) {
  shutdown(lease->fd, SHUT_RDWR);
  close(lease->fd);
  if (!lease->bytes.empty()) munmap(lease->bytes.data(), lease->bytes.size());
}

void FakeLeaseServer::Run() {
  for (;;) {
    std::vector<pollfd> items = {{stop_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
    {
      const std::lock_guard lock(mutex_);
      for (const Lease& lease : leases_) items.push_back({lease.fd, POLLIN | POLLRDHUP, 0});
    }
    poll(items.data(), items.size(), 10);
    if (items[0].revents != 0) return;
    {
      const std::lock_guard lock(mutex_);
      for (size_t i = 2; i < items.size(); ++i) {
        const auto gone =
            std::find_if(leases_.begin(), leases_.end(), [&](const Lease& lease) { return lease.fd == items[i].fd; });
        if (items[i].revents == 0 || gone == leases_.end()) continue;
        End(&*gone);
        leases_.erase(gone);
        changed_.notify_all();
      }
    }
    if (items[1].revents != 0) Accept();
  }
}

void FakeLeaseServer::Accept() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  uint64_t wanted = 0;
  if (recv(fd, &wanted, sizeof(wanted), MSG_WAITALL) != static_cast<ssize_t>(sizeof(wanted))) {
    close(fd);
    return;
  }
  if (!answerer_) return Grant(fd, wanted);
  const Answer answer = answerer_(wanted);
  Send(fd, answer);
  for (const int descriptor : answer.descriptors) close(descriptor);
  if (answer.close) {
    close(fd);
    return;
  }
  const std::lock_guard lock(mutex_);
  leases_.push_back({fd, 0, {}});
  changed_.notify_all();
}

void FakeLeaseServer::Grant(int fd, uint64_t wanted) {
  const int memory = Memory(wanted);
  void* const mapped = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  EXPECT_NE(mapped, MAP_FAILED);
  const uint64_t id = next_id_++;
  {
    const std::lock_guard lock(mutex_);
    leases_.push_back({fd, id, {static_cast<std::byte*>(mapped), wanted}});
    changed_.notify_all();
  }
  Send(fd, {Numbers(0, id, wanted), {memory}});
  close(memory);
}

}  // namespace abacus
