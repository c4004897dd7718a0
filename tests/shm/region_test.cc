#include "shm/region.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace abacus {
namespace {

class RegionTest : public testing::Test {
 protected:
  void TearDown() override { shm_unlink(("/abacus-" + name_).c_str()); }
  std::string Path() const { return "/dev/shm/abacus-" + name_; }
  const std::string name_ = "test-" + std::to_string(getpid());
};

TEST_F(RegionTest, OwnerAndGuestShareTheBytes) {
  auto owner = Region::Create(name_, {.services = 2, .lanes = 3}, 1 << 20);
  ASSERT_TRUE(owner) << owner.error().message();
  EXPECT_EQ((*owner)->arena().size(), 1u << 20);
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  auto guest = Region::Open(name_, Region::Access::kReadWrite, kNsPerSecond);
  ASSERT_TRUE(guest) << guest.error().message();
  for (const auto& region : {owner->get(), guest->get()}) {
    EXPECT_EQ(region->service_count(), 2u);
    EXPECT_EQ(region->lane_count(), 3u);
  }
  (*guest)->worker(WorkerId(1)).heartbeat_ns.store(42);
  (*guest)->arena()[100] = std::byte{7};
  EXPECT_EQ((*owner)->worker(WorkerId(1)).heartbeat_ns.load(), 42u);
  EXPECT_EQ((*owner)->arena()[100], std::byte{7});
}

// The parts lie one after another, and all of them in memory that exists: the last byte of each can be written.
TEST_F(RegionTest, PartsDoNotOverlap) {
  auto made = Region::Create(name_, {.services = kMaxServices, .lanes = kMaxLanes}, 1 << 20);
  ASSERT_TRUE(made) << made.error().message();
  Region& region = **made;
  ASSERT_TRUE(region.ReserveArena().ok());
  std::vector<std::span<std::byte>> parts;
  const auto add = [&](auto& part) { parts.push_back({reinterpret_cast<std::byte*>(&part), sizeof(part)}); };
  add(region.header());
  for (size_t i = 0; i < kMaxLanes; ++i) add(region.lane(LaneId(i)));
  for (size_t i = 0; i < kMaxServices; ++i) add(region.service(ServiceId(i)));
  for (size_t i = 0; i < kMaxWorkers; ++i) add(region.worker(WorkerId(i)));
  parts.push_back(region.arena());
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    EXPECT_LE(parts[i].data() + parts[i].size(), parts[i + 1].data()) << "part " << i;
  }
  EXPECT_EQ(parts.back().data() + parts.back().size(), parts.front().data() + region.header().total_bytes);
  EXPECT_EQ(region.header().arena_offset_bytes, ArenaOffset());
  for (const std::span<std::byte> part : parts) part.back() = std::byte{1};
}

TEST_F(RegionTest, EveryGateHasAPageOfItsOwn) {
  auto made = Region::Create(name_, {.services = 1, .lanes = kMaxLanes}, 1 << 20);
  ASSERT_TRUE(made);
  for (size_t i = 0; i < kMaxLanes; ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(&(*made)->lane(LaneId(i)).gate) % kPageBytes, 0u) << i;
  }
}

TEST_F(RegionTest, RefusesMoreThanItHasRoomFor) {
  for (const Region::Counts counts : {Region::Counts{kMaxServices + 1, 1}, Region::Counts{1, kMaxLanes + 1}}) {
    const auto made = Region::Create(name_, counts, 1 << 20);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(access(Path().c_str(), F_OK), 0);
  }
}

TEST_F(RegionTest, OpenerRefusesCountsThatTheLayoutLacks) {
  auto owner = Region::Create(name_, {.services = 1}, 1 << 20);
  ASSERT_TRUE(owner);
  SegmentHeader& header = (*owner)->header();
  const auto expect_damaged = [&] {
    const auto opened = Region::Open(name_, Region::Access::kReadOnly, 0);
    ASSERT_FALSE(opened);
    EXPECT_NE(opened.error().message().find("damaged"), std::string::npos);
  };
  header.service_count.store(17);
  expect_damaged();
  EXPECT_EQ((*owner)->service_count(), kMaxServices) << "whoever has it open stays inside";
  header.service_count.store(1);
  const uint32_t lanes = std::exchange(header.lane_count, 17u);
  expect_damaged();
  header.lane_count = lanes;
  EXPECT_TRUE(Region::Open(name_, Region::Access::kReadOnly, 0));
}

TEST_F(RegionTest, GuestDoesNotRemoveTheSegment) {
  auto owner = Region::Create(name_, {.services = 1}, 1 << 20);
  ASSERT_TRUE(owner);
  Region::Open(name_, Region::Access::kReadOnly, 0).value().reset();
  EXPECT_TRUE(Region::Open(name_, Region::Access::kReadOnly, 0));
  owner->reset();
  const auto gone = Region::Open(name_, Region::Access::kReadOnly, 0);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), StatusCode::kNotFound);
}

TEST_F(RegionTest, RefusesALiveSegment) {
  auto owner = Region::Create(name_, {.services = 1}, 1 << 20);
  ASSERT_TRUE(owner);
  const auto second = Region::Create(name_, {.services = 1}, 1 << 20);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), StatusCode::kAlreadyExists);
}

TEST_F(RegionTest, ReplacesTheSegmentOfADeadOwner) {
  const pid_t child = fork();
  if (child == 0) {
    auto made = Region::Create(name_, {.services = 1}, 1 << 20);
    if (made) (*made)->worker(WorkerId(0)).heartbeat_ns.store(77);
    _exit(made ? 0 : 1);  // without destructors: the segment stays
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  ASSERT_EQ(access(Path().c_str(), F_OK), 0);
  const uint64_t begin_ns = MonotonicNs();
  auto mine = Region::Create(name_, {.services = 1}, 1 << 20);
  ASSERT_TRUE(mine) << mine.error().message();
  EXPECT_LT(MonotonicNs() - begin_ns, kNsPerSecond);
  EXPECT_EQ((*mine)->worker(WorkerId(0)).heartbeat_ns.load(), 0u);
}

TEST_F(RegionTest, ReplacesHalfMadeAndForeignSegments) {
  for (const size_t bytes : {size_t{0}, size_t{100}, size_t{1 << 16}}) {
    std::ofstream(Path()) << std::string(bytes, 'x');
    auto mine = Region::Create(name_, {.services = 1}, 1 << 20);
    ASSERT_TRUE(mine) << bytes << ": " << mine.error().message();
  }
}

TEST_F(RegionTest, OpenerGivesUpOnAHalfMadeSegment) {
  std::ofstream(Path()) << std::string(ArenaOffset() + 4096, '\0');  // version 0: under construction
  const uint64_t begin_ns = MonotonicNs();
  const auto opened = Region::Open(name_, Region::Access::kReadWrite, 50 * kNsPerMs);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), StatusCode::kUnavailable);
  EXPECT_LT(MonotonicNs() - begin_ns, 2 * kNsPerSecond);
}

TEST_F(RegionTest, OpenerRefusesAnotherVersionAndATruncatedSegment) {
  auto owner = Region::Create(name_, {.services = 1}, 1 << 20);
  ASSERT_TRUE(owner);
  (*owner)->header().layout_version.store(kLayoutVersion + 1);
  auto opened = Region::Open(name_, Region::Access::kReadOnly, 0);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message().find("another version"), std::string::npos);
  (*owner)->header().layout_version.store(kLayoutVersion);
  ASSERT_EQ(truncate(Path().c_str(), static_cast<off_t>(ArenaOffset() + 4096)), 0);
  opened = Region::Open(name_, Region::Access::kReadOnly, 0);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message().find("damaged"), std::string::npos);
}

TEST_F(RegionTest, AFullFileSystemFailsTheReservation) {
  struct statvfs memory;
  ASSERT_EQ(statvfs("/dev/shm", &memory), 0);
  const uint64_t too_much = uint64_t{memory.f_blocks} * memory.f_frsize + (uint64_t{1} << 30);
  auto owner = Region::Create(name_, {.services = 1}, too_much);  // sparse until reserved
  ASSERT_TRUE(owner) << owner.error().message();
  const Status reserved = (*owner)->ReserveArena();
  EXPECT_EQ(reserved.code(), StatusCode::kUnavailable);
  EXPECT_NE(reserved.message().find("arena_mib"), std::string::npos);
  owner->reset();
  EXPECT_NE(access(Path().c_str(), F_OK), 0) << "nothing may be left behind";
}

TEST_F(RegionTest, AReservedArenaHasItsMemory) {
  auto owner = Region::Create(name_, {.services = 1}, 8 << 20);
  ASSERT_TRUE(owner);
  ASSERT_TRUE((*owner)->ReserveArena().ok());
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_GE(info.st_blocks * 512, 8 << 20);
}

TEST(Text, IsCutAndTerminated) {
  std::array<char, 4> field;
  field.fill('x');
  StoreText(field, "abcdef");
  EXPECT_EQ(LoadText(field), "abc");
  field.fill('y');  // a peer may leave out the NUL
  EXPECT_EQ(LoadText(field), "yyyy");
}

}  // namespace
}  // namespace abacus
