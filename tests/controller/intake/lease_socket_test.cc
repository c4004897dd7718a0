#include "controller/intake/lease_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <list>
#include <memory>
#include <vector>

#include "tests/controller/intake/lease_client.h"
#include "tests/support/controller_process.h"

namespace abacus {
namespace {

using test::Eventually;
using test::kPatienceMs;
using test::LeaseClient;

constexpr uint64_t kPage = 4096;

size_t OpenDescriptors() {
  const auto files = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

class LeaseSocketTest : public testing::Test {
 protected:
  LeaseSocketTest()
      : path_((std::filesystem::temp_directory_path() / ("lease-" + std::to_string(getpid()) + ".sock")).string()),
        leases_(path_) {
    limits_.client_bytes = 8 * kPage;
    limits_.total_bytes = 12 * kPage;
  }
  ~LeaseSocketTest() override {
    socket_.reset();
    unlink(path_.c_str());
  }
  void Start() {
    auto created = LeaseSocket::Create(limits_, &leases_);
    ASSERT_TRUE(created) << created.error().message();
    socket_ = std::move(*created);
  }
  // A process of its own leases this much and then does nothing until it is killed.
  pid_t LeaseElsewhere(uint64_t bytes) {
    int done[2];
    EXPECT_EQ(pipe(done), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      LeaseClient client(path_);
      const char ok = client.Lease(bytes) == StatusCode::kOk ? 1 : 0;
      [[maybe_unused]] const ssize_t written = write(done[1], &ok, 1);
      for (;;) pause();
    }
    char ok = 0;
    EXPECT_EQ(read(done[0], &ok, 1), 1);
    EXPECT_EQ(ok, 1);
    close(done[0]);
    close(done[1]);
    return pid;
  }
  static void Kill(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }

  const std::string path_;
  Leases leases_;
  LeaseSocket::Limits limits_;
  std::unique_ptr<LeaseSocket> socket_;
};

TEST_F(LeaseSocketTest, GivesMemoryThatBothSidesSee) {
  Start();
  LeaseClient client(path_);
  ASSERT_EQ(client.Lease(kPage + 1), StatusCode::kOk);
  ASSERT_EQ(client.bytes().size(), 2 * kPage) << "whole pages";
  const LeasePtr region = leases_.Find(client.id);
  ASSERT_NE(region, nullptr);
  client.Fill(5000, "hello");
  EXPECT_EQ(std::memcmp(region->bytes().data() + 5000, "hello", 5), 0);
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  EXPECT_EQ(fcntl(client.file(), F_GET_SEALS) & kSeals, kSeals);
  EXPECT_EQ(ftruncate(client.file(), 0), -1);
}

TEST_F(LeaseSocketTest, IsForItsUserOnly) {
  Start();
  struct stat info = {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
}

TEST_F(LeaseSocketTest, ALeaseEndsWithItsConnection) {
  Start();
  LeaseClient client(path_);
  ASSERT_EQ(client.Lease(kPage), StatusCode::kOk);
  ASSERT_NE(leases_.Find(client.id), nullptr);
  client.Close();
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return leases_.Find(client.id) == nullptr; }));
  client.Fill(0, "still mine");
}

TEST_F(LeaseSocketTest, AQueryInFlightKeepsItsRegion) {
  Start();
  LeaseClient client(path_);
  ASSERT_EQ(client.Lease(8 * kPage), StatusCode::kOk);
  LeasePtr in_use = leases_.Find(client.id);
  client.Close();
  ASSERT_TRUE(Eventually(kPatienceMs, [&] { return leases_.Find(client.id) == nullptr; }));
  in_use->bytes()[0] = std::byte{1};
  EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOverloaded) << "it counts while it is mapped";
  in_use = nullptr;
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return LeaseClient(path_).Lease(8 * kPage) == StatusCode::kOk; }));
}

TEST_F(LeaseSocketTest, WhatWasGivenBackDoesNotCountForTheNext) {
  Start();
  for (int i = 0; i < 500; ++i) {
    LeaseClient client(path_);
    ASSERT_EQ(client.Lease(8 * kPage), StatusCode::kOk) << i;
  }
}

TEST_F(LeaseSocketTest, TheBytesOfAClientAreBounded) {
  Start();
  EXPECT_EQ(LeaseClient(path_).Lease(0), StatusCode::kInvalidArgument);
  EXPECT_EQ(LeaseClient(path_).Lease(8 * kPage + 1), StatusCode::kInvalidArgument) << "it could never have that much";
  EXPECT_EQ(LeaseClient(path_).Lease(UINT64_MAX), StatusCode::kInvalidArgument);
  LeaseClient first(path_), second(path_), third(path_);
  EXPECT_EQ(first.Lease(5 * kPage), StatusCode::kOk);
  EXPECT_EQ(second.Lease(4 * kPage), StatusCode::kOverloaded);
  EXPECT_EQ(second.id, 0u);
  EXPECT_EQ(second.file(), -1);
  EXPECT_TRUE(second.Ended());
  EXPECT_EQ(third.Lease(3 * kPage), StatusCode::kOk);
}

TEST_F(LeaseSocketTest, TheBytesOfAllClientsAreBounded) {
  Start();
  const pid_t other = LeaseElsewhere(8 * kPage);
  EXPECT_EQ(LeaseClient(path_).Lease(5 * kPage), StatusCode::kOverloaded);
  LeaseClient client(path_);
  EXPECT_EQ(client.Lease(4 * kPage), StatusCode::kOk) << "another client's do not count as its own";
  Kill(other);
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return LeaseClient(path_).Lease(4 * kPage) == StatusCode::kOk; }));
}

TEST_F(LeaseSocketTest, AClientThatIsKilledGivesItsLeaseBack) {
  Start();
  for (int i = 0; i < 20; ++i) {
    const pid_t pid = LeaseElsewhere(8 * kPage);
    EXPECT_EQ(LeaseClient(path_).Lease(8 * kPage), StatusCode::kOverloaded);
    Kill(pid);
    EXPECT_TRUE(Eventually(kPatienceMs, [&] { return LeaseClient(path_).Lease(8 * kPage) == StatusCode::kOk; })) << i;
  }
}

TEST_F(LeaseSocketTest, TheLeasesOfAClientAreCounted) {
  limits_.client_leases = 3;
  Start();
  std::list<LeaseClient> clients;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(clients.emplace_back(path_).Lease(kPage), StatusCode::kOk);
  EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOverloaded);
  clients.pop_front();
  EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOk);
}

TEST_F(LeaseSocketTest, TheLeasesOfAllClientsAreCounted) {
  limits_.total_leases = 1;
  Start();
  const pid_t other = LeaseElsewhere(kPage);
  EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOverloaded);
  Kill(other);
}

TEST_F(LeaseSocketTest, AWishMayComeByteByByte) {
  Start();
  LeaseClient client(path_);
  const uint64_t wanted = kPage;
  for (size_t i = 0; i < sizeof(wanted); ++i) {
    ASSERT_TRUE(client.Send(reinterpret_cast<const char*>(&wanted) + i, 1));
    usleep(1000);
  }
  EXPECT_EQ(client.ReceiveAnswer(), StatusCode::kOk);
}

TEST_F(LeaseSocketTest, WhoSaysMoreThanAWishIsEnded) {
  Start();
  LeaseClient client(path_);
  ASSERT_EQ(client.Lease(kPage), StatusCode::kOk);
  ASSERT_TRUE(client.Send("x", 1));
  EXPECT_TRUE(client.Ended());
  EXPECT_EQ(leases_.Find(client.id), nullptr);
}

TEST_F(LeaseSocketTest, WhoAsksForNothingOrReadsNothingIsInNobodysWay) {
  Start();
  std::list<LeaseClient> silent, deaf;
  const uint64_t wanted = kPage;
  for (int i = 0; i < 4; ++i) silent.emplace_back(path_);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(deaf.emplace_back(path_).Send(&wanted, sizeof(wanted)));
  EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOk);
  EXPECT_TRUE(silent.front().Ended()) << "after some seconds";
}

TEST_F(LeaseSocketTest, ThousandsOfConnectionsLeaveNothing) {
  Start();
  { EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOk); }
  const size_t before = OpenDescriptors();
  const uint64_t wanted = kPage;
  for (int i = 0; i < 3000; ++i) {
    LeaseClient client(path_);
    if (i % 3 == 1) client.Send(&wanted, 3);
    if (i % 3 == 2) client.Send(&wanted, sizeof(wanted));  // gone before the answer
  }
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return OpenDescriptors() <= before; }));
  EXPECT_TRUE(Eventually(kPatienceMs, [&] { return LeaseClient(path_).Lease(8 * kPage) == StatusCode::kOk; }));
}

TEST_F(LeaseSocketTest, TellsWhenDescriptorsHaveRunOut) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer's check of object types needs a descriptor itself";
#endif
  Start();
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t newcomer = fork();  // the limit below is not its own
  if (newcomer == 0) {
    char byte = 0;
    if (read(go[0], &byte, 1) != 1) _exit(2);
    _exit(LeaseClient(path_).Lease(kPage) == StatusCode::kOverloaded ? 0 : 1);
  }
  LeaseClient connected(path_), other(path_);
  usleep(200'000);  // both have their descriptors
  std::vector<int> taken;
  for (int i = 0; i < 100; ++i) taken.push_back(dup(0));
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none_left = {static_cast<rlim_t>(taken.back()) + 1, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none_left), 0);
  EXPECT_EQ(connected.Lease(kPage), StatusCode::kOverloaded) << "none for a region";
  // That connection's own has become free again.
  EXPECT_TRUE(connected.Ended());
  taken.push_back(dup(0));
  EXPECT_EQ(write(go[1], "g", 1), 1);
  int status = -1;
  EXPECT_EQ(waitpid(newcomer, &status, 0), newcomer);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "none for a connection: " << status;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (const int fd : taken) close(fd);
  EXPECT_EQ(other.Lease(kPage), StatusCode::kOk) << "it goes on when there are some again";
  close(go[0]);
  close(go[1]);
}

TEST_F(LeaseSocketTest, ReplacesWhatAnEarlierOneLeft) {
  { std::ofstream(path_) << "left"; }
  Start();
  EXPECT_EQ(LeaseClient(path_).Lease(kPage), StatusCode::kOk);
  socket_.reset();
  EXPECT_FALSE(std::filesystem::exists(path_)) << "and leaves nothing itself";
}

TEST_F(LeaseSocketTest, ItsEndIsSeenByItsClients) {
  Start();
  LeaseClient client(path_);
  ASSERT_EQ(client.Lease(kPage), StatusCode::kOk);
  socket_.reset();
  EXPECT_TRUE(client.Ended());
  EXPECT_EQ(leases_.Find(client.id), nullptr);
  client.Fill(0, "still mine");
}

TEST_F(LeaseSocketTest, SaysWhyItCannotListen) {
  Leases nowhere("/no/such/folder/lease.sock");
  auto created = LeaseSocket::Create(limits_, &nowhere);
  ASSERT_FALSE(created);
  EXPECT_EQ(created.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(created.error().message(), testing::HasSubstr("/no/such/folder/lease.sock"));
  Leases long_path("/tmp/" + std::string(200, 'x'));
  created = LeaseSocket::Create(limits_, &long_path);
  ASSERT_FALSE(created);
  EXPECT_THAT(created.error().message(), testing::HasSubstr("too long"));
}

}  // namespace
}  // namespace abacus
