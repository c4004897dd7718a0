#include "controller/workers/worker_ranges.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>

namespace abacus {
namespace {

std::unique_ptr<WorkerSlot> GoodSlot() {
  auto slot = std::make_unique<WorkerSlot>();
  for (RangeTableEntry& entry : slot->ranges) {
    entry.operators = 8;
    entry.cut_count = 3;
    entry.cuts = {0, 4, 8};
    entry.solo_ns = 1000;
  }
  return slot;
}

TEST(WorkerRanges, AreCopiedBucketByBucket) {
  const auto slot = GoodSlot();
  slot->ranges[1].cuts = {0, 2, 8};
  const auto ranges = ReadWorkerRanges(*slot, 2);
  ASSERT_TRUE(ranges);
  ASSERT_EQ(ranges->size(), 2u);
  EXPECT_EQ((*ranges)[0].cuts, (std::vector<uint32_t>{0, 4, 8}));
  EXPECT_EQ((*ranges)[1].cuts, (std::vector<uint32_t>{0, 2, 8}));
  EXPECT_EQ((*ranges)[1].operators, 8u);
  EXPECT_EQ((*ranges)[1].solo_ns, 1000u);
}

TEST(WorkerRanges, ImpossibleTablesAreRefused) {
  const std::vector<std::function<void(RangeTableEntry*)>> changes = {
      [](RangeTableEntry* e) { e->cut_count = 0; },
      [](RangeTableEntry* e) { e->cut_count = 1; },
      [](RangeTableEntry* e) { e->cut_count = 60'000; },
      [](RangeTableEntry* e) { e->cuts[0] = 1; },
      [](RangeTableEntry* e) { e->operators = 9; },
      [](RangeTableEntry* e) { e->cuts[1] = 8; },
      [](RangeTableEntry* e) { e->cuts[1] = 0; },
      [](RangeTableEntry* e) { e->cuts[1] = 12; },
      [](RangeTableEntry* e) {
        e->operators = 0, e->cut_count = 2, e->cuts = {0, 0};
      },
      [](RangeTableEntry* e) { e->solo_ns = UINT64_MAX; }};
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto slot = GoodSlot();
    changes[i](&slot->ranges[1]);
    EXPECT_TRUE(ReadWorkerRanges(*slot, 1)) << "the other bucket is as it was";
    const auto ranges = ReadWorkerRanges(*slot, 2);
    ASSERT_FALSE(ranges) << i;
    EXPECT_NE(ranges.error().message().find("bucket 1"), std::string::npos);
  }
}

}  // namespace
}  // namespace abacus
