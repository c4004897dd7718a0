#include "controller/intake/leases.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace abacus {
namespace {

constexpr uint64_t kBytes = 8192;

class Mapping {
 public:
  explicit Mapping(int fd) : address_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {}
  ~Mapping() { munmap(address_, kBytes); }
  std::byte* data() const { return static_cast<std::byte*>(address_); }

 private:
  void* const address_;
};

TEST(SharedRegionTest, IsZeroAndTheSameMemoryOnBothSides) {
  int fd = -1;
  const LeasePtr region = SharedRegion::Create(kBytes, &fd).value();
  const Mapping client(fd);
  close(fd);
  ASSERT_EQ(region->bytes().size(), kBytes);
  EXPECT_TRUE(
      std::all_of(region->bytes().begin(), region->bytes().end(), [](std::byte b) { return b == std::byte{}; }));
  client.data()[5000] = std::byte{7};
  EXPECT_EQ(region->bytes()[5000], std::byte{7});
  region->bytes()[0] = std::byte{9};
  EXPECT_EQ(client.data()[0], std::byte{9});
}

TEST(SharedRegionTest, NobodyCanTakeItsMemoryAway) {
  int fd = -1;
  const LeasePtr region = SharedRegion::Create(kBytes, &fd).value();
  EXPECT_EQ(ftruncate(fd, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(fd, 2 * kBytes), -1);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1) << "nor make it read-only under us";
  // A hole is allowed: it reads as zeros, and no access fails.
  region->bytes()[4096] = std::byte{1};
  EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes), 0);
  EXPECT_EQ(region->bytes()[4096], std::byte{});
  region->bytes()[4096] = std::byte{2};
  EXPECT_EQ(region->bytes()[4096], std::byte{2});
  close(fd);
}

TEST(SharedRegionTest, HoldsWhatLiesInsideOnly) {
  int fd = -1;
  const LeasePtr region = SharedRegion::Create(kBytes, &fd).value();
  close(fd);
  EXPECT_TRUE(region->Holds(0, kBytes));
  EXPECT_TRUE(region->Holds(kBytes, 0));
  EXPECT_TRUE(region->Holds(kBytes - 1, 1));
  EXPECT_FALSE(region->Holds(kBytes - 1, 2));
  EXPECT_FALSE(region->Holds(kBytes + 1, 0));
  EXPECT_FALSE(region->Holds(1, UINT64_MAX)) << "their sum overflows";
  EXPECT_FALSE(region->Holds(UINT64_MAX, 1));
  EXPECT_FALSE(region->Holds(UINT64_MAX, UINT64_MAX));
}

TEST(SharedRegionTest, NumbersAreRandom) {
  std::set<uint64_t> ids, high;
  for (int i = 0; i < 100; ++i) {
    int fd = -1;
    const LeasePtr region = SharedRegion::Create(4096, &fd).value();
    close(fd);
    ids.insert(region->id());
    high.insert(region->id() >> 48);
  }
  EXPECT_EQ(ids.size(), 100u);
  EXPECT_FALSE(ids.contains(0)) << "stands for none in the protocol";
  EXPECT_GT(high.size(), 50u) << "all bits are";
}

TEST(SharedRegionTest, FailsWithoutDescriptors) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  int fd = -1;
  const auto region = SharedRegion::Create(4096, &fd);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(region);
  EXPECT_EQ(region.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(region.error().message(), testing::HasSubstr("memfd_create"));
  EXPECT_EQ(fd, -1);
}

TEST(SharedRegionTest, LeavesNothingWhereItFails) {
  const int before = dup(0);
  close(before);
  int fd = -1;
  const auto region = SharedRegion::Create(0, &fd);  // the kernel refuses it, as it does where memory has run out
  ASSERT_FALSE(region);
  EXPECT_EQ(region.error().code(), StatusCode::kUnavailable);
  const int after = dup(0);
  close(after);
  EXPECT_EQ(after, before) << "the lowest free descriptor";
}

TEST(LeasesTest, KnowOpenLeasesOnly) {
  Leases leases;
  int fd = -1;
  LeasePtr region = SharedRegion::Create(4096, &fd).value();
  close(fd);
  const uint64_t id = region->id();
  const std::weak_ptr<const SharedRegion> watched = region;
  EXPECT_EQ(leases.Find(id), nullptr);
  leases.Open(std::move(region));
  const LeasePtr in_use = leases.Find(id);
  ASSERT_NE(in_use, nullptr);
  EXPECT_EQ(in_use->id(), id);
  EXPECT_EQ(leases.Find(id + 1), nullptr);
  EXPECT_EQ(leases.Find(0), nullptr);
  leases.Close(id);
  EXPECT_EQ(leases.Find(id), nullptr);
  in_use->bytes()[0] = std::byte{1};  // a query in flight still has it
  EXPECT_FALSE(watched.expired());
}

TEST(LeasesTest, ARegionGoesWithItsLastUser) {
  Leases leases;
  int fd = -1;
  LeasePtr region = SharedRegion::Create(4096, &fd).value();
  close(fd);
  const uint64_t id = region->id();
  leases.Open(region);
  const std::weak_ptr<const SharedRegion> watched = region;
  region = nullptr;
  EXPECT_FALSE(watched.expired());
  leases.Close(id);
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace abacus
