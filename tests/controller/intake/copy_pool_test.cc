#include "controller/intake/copy_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/controller_process.h"
#include "tests/support/specs.h"

namespace abacus {
namespace {

constexpr int64_t kWide = 8192;  // int32 a row: 32 KiB
constexpr uint32_t kSlots = 16;

class CopyPoolTest : public testing::Test {
 protected:
  CopyPoolTest() : table_(kSlots), arena_(kSlots << 20) {
    Service service;
    service.config.spec = test::ImageSpec();
    for (TensorSpec* tensor : {&service.config.spec.inputs[0], &service.config.spec.outputs[0]}) {
      tensor->dtype = DType::kInt32;
      tensor->dims = Shape{kBatchDim, kWide};
    }
    service.config.spec.inputs[0].range = IntRange{0, 9};
    service_ = std::make_shared<const Service>(std::move(service));
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      table_[slot].service = service_;
      table_[slot].rows = 1;
      table_[slot].block = {uint64_t{slot} << 20, 1 << 20};
    }
  }
  void Start(uint32_t threads) {
    pool_ = std::make_unique<CopyPool>(threads, &table_, arena_, [this] { wakes_.fetch_add(1); });
  }
  // The input of this slot's query: all values are `value`.
  std::unique_ptr<TensorCopy> InputOf(uint32_t slot, int32_t value) {
    const std::vector<int32_t> values(kWide, value);
    std::unique_ptr<TensorCopy> copy = pool_->Fresh();
    copy->slot = slot;
    copy->bytes = kWide * sizeof(int32_t);
    copy->sources.emplace_back().frame.rebuild(values.data(), copy->bytes);
    copy->admitted.input_order = {0};
    return copy;
  }
  int32_t Last(uint32_t slot) const {
    int32_t value = 0;
    std::memcpy(&value, arena_.data() + (uint64_t{slot} << 20) + (kWide - 1) * sizeof(value), sizeof(value));
    return value;
  }

  QueryTable table_;
  std::vector<std::byte> arena_;
  ServicePtr service_;
  std::atomic<int> wakes_{0};
  std::unique_ptr<CopyPool> pool_;
};

TEST_F(CopyPoolTest, OneThreadIsTheCallers) {
  Start(1);
  auto copy = InputOf(3, 7);
  ASSERT_TRUE(pool_->Run(&copy));
  EXPECT_EQ(Last(3), 7);
  EXPECT_FALSE(copy->rejection);
  EXPECT_TRUE(copy->sources.empty()) << "the frame went with the copy";
  EXPECT_FALSE(pool_->Holds(3));
  EXPECT_EQ(pool_->held(), 0u);
}

TEST_F(CopyPoolTest, WhatIsSmallIsCopiedAtOnce) {
  Start(2);
  auto copy = InputOf(3, 7);
  copy->bytes = CopyPool::kSmallBytes - 1;
  ASSERT_TRUE(pool_->Run(&copy));
  EXPECT_EQ(Last(3), 7);
  EXPECT_EQ(wakes_.load(), 0);
}

TEST_F(CopyPoolTest, WhatIsLargeIsHeldUntilItIsTakenBack) {
  Start(2);
  auto copy = InputOf(3, 7);
  ASSERT_FALSE(pool_->Run(&copy));
  EXPECT_EQ(copy, nullptr);
  ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] { return wakes_.load() == 1; }));
  EXPECT_TRUE(pool_->any_done());
  EXPECT_TRUE(pool_->Holds(3)) << "done, but nobody has dealt with it";
  EXPECT_EQ(pool_->held(), 1u);
  uint32_t slot = kSlots;
  EXPECT_EQ(pool_->TakeDone([&](const TensorCopy& done) {
    slot = done.slot;
    EXPECT_FALSE(pool_->Holds(3));
    EXPECT_EQ(pool_->held(), 1u) << "until it has been dealt with";
  }),
            1u);
  EXPECT_EQ(slot, 3u);
  EXPECT_EQ(Last(3), 7);
  EXPECT_EQ(pool_->held(), 0u);
}

TEST_F(CopyPoolTest, ManyCopiesEndInTheirOwnBlocksWithTheirOwnVerdicts) {
  Start(4);
  for (int round = 0; round < 20; ++round) {
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      auto copy = InputOf(slot, static_cast<int32_t>(slot));  // 10 and more are out of range
      ASSERT_FALSE(pool_->Run(&copy));
    }
    size_t done = 0;
    ASSERT_TRUE(test::Eventually(test::kPatienceMs, [&] {
      done += pool_->TakeDone([&](const TensorCopy& copy) {
        EXPECT_EQ(copy.rejection.has_value(), copy.slot > 9) << copy.slot;
        EXPECT_EQ(Last(copy.slot), static_cast<int32_t>(copy.slot));
      });
      return done == kSlots;
    }));
  }
  EXPECT_EQ(pool_->held(), 0u);
}

TEST_F(CopyPoolTest, ItsEndWaitsForNoMoreThanWhatHasBegun) {
  Start(2);
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    auto copy = InputOf(slot, 1);
    pool_->Run(&copy);
  }
  pool_.reset();
}

TEST(OutputOffsetsTest, AreMultiplesOfSixtyFourFromTheBegin) {
  TensorLayout layout;
  for (const uint64_t bytes : {1, 64, 65, 3}) layout.outputs.push_back({0, bytes});
  uint64_t total = 0;
  const OutputOffsets offsets = OutputOffsetsAt(layout, 7, &total);
  EXPECT_TRUE(std::ranges::equal(offsets, std::vector<uint64_t>{7, 71, 135, 263}));
  EXPECT_EQ(total, 256u + 3u) << "no padding behind the last";
  OutputOffsetsAt({}, 7, &total);
  EXPECT_EQ(total, 0u);
}

}  // namespace
}  // namespace abacus
