// Clients: what they make of the answers of a lease socket, also of those that no honest server gives.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/leased_region.h"
#include "tests/client/fake_lease_server.h"

namespace abacus {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Answer = FakeLeaseServer::Answer;

constexpr uint64_t kWanted = 4096;
constexpr uint64_t kChannel = 1;

Result<std::shared_ptr<LeasedRegion>> Open(const FakeLeaseServer& server, std::chrono::milliseconds timeout = 10s) {
  return LeasedRegion::Open(server.path(), kWanted, kChannel, timeout);
}

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator begin("/proc/self/fd"), end;
  return static_cast<size_t>(std::distance(begin, end));
}
// Whether there are this many, soon: the server's are closed by its own thread.
bool DescriptorsComeTo(size_t count) {
  const auto limit = std::chrono::steady_clock::now() + 10s;
  while (OpenDescriptors() != count && std::chrono::steady_clock::now() < limit) std::this_thread::sleep_for(1ms);
  return OpenDescriptors() == count;
}

TEST(LeaseSocket, BothSidesSeeTheSameMemory) {
  const FakeLeaseServer server;
  const auto region = Open(server);
  ASSERT_TRUE(region) << region.error().message();
  ASSERT_EQ((*region)->bytes().size(), kWanted);
  EXPECT_EQ((*region)->bytes()[0], std::byte{0});
  (*region)->bytes()[kWanted - 1] = std::byte{7};
  EXPECT_EQ(server.Region((*region)->id())[kWanted - 1], std::byte{7});
}

TEST(LeaseSocket, ALargerRegionThanWantedIsOne) {
  const FakeLeaseServer server([](uint64_t wanted) {
    return Answer{FakeLeaseServer::Numbers(0, 5, 2 * wanted), {FakeLeaseServer::Memory(2 * wanted)}};
  });
  const auto region = Open(server);
  ASSERT_TRUE(region) << region.error().message();
  EXPECT_EQ((*region)->bytes().size(), 2 * kWanted);
}

TEST(LeaseSocket, ItsEndGivesTheLeaseBack) {
  const FakeLeaseServer server;
  auto first = Open(server), second = Open(server);
  ASSERT_TRUE(first && second);
  EXPECT_TRUE(server.WaitForLeases(2));
  first->reset();
  EXPECT_TRUE(server.WaitForLeases(1));
  EXPECT_TRUE((*second)->Alive());
}

TEST(LeaseSocket, AForkedChildDoesNotEndTheLease) {
  const FakeLeaseServer server;
  auto region = Open(server);
  ASSERT_TRUE(region);
  const pid_t child = fork();
  if (child == 0) {
    region->reset();
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE((*region)->Alive());
  EXPECT_TRUE(server.WaitForLeases(1));
}

TEST(LeaseSocket, RefusalsKeepTheirStatus) {
  for (const StatusCode code : {StatusCode::kInvalidArgument, StatusCode::kOverloaded}) {
    const FakeLeaseServer server([code](uint64_t) {
      return Answer{FakeLeaseServer::Numbers(static_cast<uint64_t>(code), 0, 0), {}, true};
    });
    const auto region = Open(server);
    ASSERT_FALSE(region);
    EXPECT_EQ(region.error().code(), code);
    EXPECT_THAT(region.error().message(), HasSubstr("refuses a lease of 4096 bytes"));
  }
}

// Each is an error that says what is wrong, and leaves no descriptor open.
TEST(LeaseSocket, MalformedAnswers) {
  struct Case {
    std::string says;
    std::function<Answer(uint64_t)> answer;
  };
  const auto memory = [](uint64_t bytes, int seals = FakeLeaseServer::kAllSeals) {
    return FakeLeaseServer::Memory(bytes, seals);
  };
  const auto numbers = FakeLeaseServer::Numbers;
  const std::vector<Case> cases = {
      {"0 descriptors instead of one",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n), {}};
       }},
      {"2 descriptors instead of one",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n), {memory(n), memory(n)}};
       }},
      {"descriptors instead of one",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n),
                       std::vector<int>{memory(n), memory(n), memory(n), memory(n), memory(n), memory(n), memory(n)}};
       }},
      {"a region without a number",
       [&](uint64_t n) {
         return Answer{numbers(0, 0, n), {memory(n)}};
       }},
      {"4095 bytes instead of 4096",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n - 1), {memory(n)}};
       }},
      {"0 bytes instead of 4096",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, 0), {memory(n)}};
       }},
      {"a descriptor of 4096 bytes for 8192",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, 2 * n), {memory(n)}};
       }},
      {"a descriptor of 4096 bytes for 18446744073709551615",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, ~uint64_t{0}), {memory(n)}};
       }},
      {"not sealed",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n), {memory(n, F_SEAL_GROW | F_SEAL_SEAL)}};
       }},
      {"not sealed",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n), {memory(n, F_SEAL_SHRINK)}};
       }},
      {"a descriptor of 0 bytes",
       [&](uint64_t n) {
         return Answer{numbers(0, 5, n), {open("/dev/zero", O_RDWR | O_CLOEXEC)}};
       }},
      {"unknown status 10",
       [&](uint64_t) {
         return Answer{numbers(kWireStatusCount, 0, 0), {}};
       }},
      {"unknown status 18446744073709551615",
       [&](uint64_t n) {
         return Answer{numbers(~uint64_t{0}, 5, n), {}};
       }},
  };
  for (const Case& c : cases) {
    const FakeLeaseServer server(c.answer);
    const size_t before = OpenDescriptors();
    const auto region = Open(server);
    ASSERT_FALSE(region) << c.says;
    EXPECT_EQ(region.error().code(), StatusCode::kInternal) << c.says;
    EXPECT_THAT(region.error().message(), HasSubstr(c.says));
    EXPECT_THAT(region.error().message(), HasSubstr(server.path()));
    EXPECT_TRUE(DescriptorsComeTo(before)) << c.says;
  }
}

TEST(LeaseSocket, AnswersThatAreCutOff) {
  for (const size_t size : {0, 1, 8, 23}) {
    const FakeLeaseServer server([size](uint64_t wanted) {
      auto bytes = FakeLeaseServer::Numbers(0, 5, wanted);
      bytes.resize(size);
      if (size == 0) return Answer{{}, {}, true};
      return Answer{bytes, {FakeLeaseServer::Memory(wanted)}, true};
    });
    const size_t before = OpenDescriptors();
    const auto region = Open(server);
    ASSERT_FALSE(region) << size;
    EXPECT_EQ(region.error().code(), StatusCode::kUnavailable) << size;
    EXPECT_THAT(region.error().message(), HasSubstr("ended the connection without a lease"));
    EXPECT_TRUE(DescriptorsComeTo(before)) << size;
  }
}

TEST(LeaseSocket, AServerThatSaysNothingRunsIntoTheTimeLimit) {
  for (const size_t size : {0, 23}) {
    const FakeLeaseServer server([size](uint64_t wanted) {
      auto bytes = FakeLeaseServer::Numbers(0, 5, wanted);
      bytes.resize(size);
      return Answer{bytes, {}};
    });
    const auto region = Open(server, 50ms);
    ASSERT_FALSE(region);
    EXPECT_EQ(region.error().code(), StatusCode::kTimeout);
    EXPECT_THAT(region.error().message(), HasSubstr("within 50ms"));
  }
}

TEST(LeaseSocket, NobodyThere) {
  for (const std::string& path :
       {::testing::TempDir() + "no_such.sock", std::string("/"), std::string(200, 'x'), std::string("a\0b", 3)}) {
    const auto region = LeasedRegion::Open(path, kWanted, kChannel, 1s);
    ASSERT_FALSE(region) << path;
    EXPECT_EQ(region.error().code(), StatusCode::kUnavailable);
    EXPECT_THAT(region.error().message(), HasSubstr("no lease from " + path));
  }
}

TEST(LeaseSocket, TheServerIsLookedForOnThisMachineOnly) {
  const std::string told = "/run/abacus/default/lease.sock";
  for (const char* here : {"tcp://127.0.0.1:5570", "tcp://localhost:5570", "tcp://[::1]:5570"}) {
    EXPECT_EQ(LeaseSocketPath(here, told).value_or("none"), told) << here;
  }
  EXPECT_EQ(*LeaseSocketPath("ipc:///elsewhere/default/controller.ipc", told), "/elsewhere/default/lease.sock");
  EXPECT_EQ(*LeaseSocketPath("ipc://controller.ipc", told), "lease.sock");
  EXPECT_EQ(*LeaseSocketPath("ipc://@abstract", told), told);
  // 192.0.2.0/24 is for documentation: no machine has it.
  for (const char* there : {"tcp://192.0.2.1:5570", "tcp://nowhere.invalid:5570"}) {
    const auto path = LeaseSocketPath(there, told);
    ASSERT_FALSE(path) << there;
    EXPECT_EQ(path.error().code(), StatusCode::kUnavailable);
    EXPECT_THAT(path.error().message(), HasSubstr("on another machine"));
  }
  EXPECT_THAT(LeaseSocketPath("tcp://127.0.0.1:5570", "").error().message(), HasSubstr("gives no leases"));
}

TEST(LeasedRegion, ClaimsOfBlocksAreDisjoint) {
  const FakeLeaseServer server;
  const auto opened = Open(server);
  ASSERT_TRUE(opened);
  LeasedRegion& region = **opened;
  EXPECT_TRUE(region.Claim(64, 64));
  EXPECT_TRUE(region.Claim(256, 64));
  for (const auto& [offset, bytes] : {std::pair{64, 64}, {0, 65}, {127, 1}, {100, 200}, {0, 4096}, {319, 1}}) {
    EXPECT_TRUE(region.Claimed(offset, bytes)) << offset;
    EXPECT_FALSE(region.Claim(offset, bytes)) << offset;
  }
  for (const auto& [offset, bytes] : {std::pair{0, 64}, {128, 128}, {320, 64}, {70, 0}}) {
    EXPECT_FALSE(region.Claimed(offset, bytes)) << offset;
  }
  region.Release(64);
  EXPECT_TRUE(region.Claim(0, 256));
  EXPECT_TRUE(region.Claimed(256, 1));
}

}  // namespace
}  // namespace abacus
