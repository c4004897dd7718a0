#include "controller/schedule/one_at_a_time.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;

// Alone 1 row takes 1.1 ms, a batch of 2 takes 1.2, of 4 1.4, of 8 1.8; service 2 takes 5 ms more.
class OneAtATimeTest : public BatchFixture {
 protected:
  OneAtATimeTest() : BatchFixture(3) {
    for (uint32_t s = 0; s < 3; ++s) SetShape(s, {1, 2, 4, 8}, {}, s == 2 ? 6 * kMs : kMs, kMs / 10);
  }
  std::vector<Picked> PickedBy(const char* policy) { return BatchFixture::PickedBy(Next(*PolicyNamed(policy), 100)); }
};

TEST_F(OneAtATimeTest, EdfTakesAlongTheNextDeadlinesNotTheOldest) {
  WaitRows(0, 10, 50 * kMs);
  const uint64_t d = WaitRows(0, 20, 40 * kMs);
  const uint64_t c = WaitRows(0, 30, 30 * kMs);
  const uint64_t b = WaitRows(0, 40, 20 * kMs);
  const uint64_t a = WaitRows(0, 50, 10 * kMs);
  WaitRows(1, 5, 15 * kMs);
  services_[0].view.max_batch = 4;
  EXPECT_THAT(PickedBy("edf"), ElementsAre(Picked{0, {a, b, c, d}, 4}));
}

TEST_F(OneAtATimeTest, EdfBreaksTiesByTheQueriesOfTheDeadlineNotByTheirCompanions) {
  WaitRows(0, 10, 50 * kMs);  // the oldest of all, but due later
  const uint64_t tied_older = WaitRows(1, 20, 30 * kMs);
  WaitRows(0, 30, 30 * kMs);
  EXPECT_THAT(PickedBy("edf"), ElementsAre(Picked{1, {tied_older}, 1}));
}

TEST_F(OneAtATimeTest, SjfComparesTimePerQuery) {
  WaitRows(0, 10, 90 * kMs);  // 1.1 ms
  std::vector<uint64_t> eight;
  for (int i = 0; i < 8; ++i) eight.push_back(WaitRows(2, 20, 90 * kMs));  // 6.8 / 8 = 0.85 ms
  EXPECT_THAT(PickedBy("sjf"), ElementsAre(Picked{2, eight, 8}));
  services_[2].waiting.pop_back();
  services_[2].waiting.pop_back();
  EXPECT_EQ(PickedBy("sjf")[0].service, 0u) << "6.8 / 6 = 1.13 ms";
}

TEST_F(OneAtATimeTest, SjfCountsQueriesNotRows) {
  WaitRows(2, 10, 90 * kMs, 8);  // one query of 6.8 ms
  const uint64_t short_one = WaitRows(0, 20, 90 * kMs);
  EXPECT_THAT(PickedBy("sjf"), ElementsAre(Picked{0, {short_one}, 1}));
}

TEST_F(OneAtATimeTest, SjfBeginsWithTheShortestBucketOfAService) {
  SetShape(1, {1, 2}, {16, 512}, kMs, kMs / 100);  // 1.16 ms and 6.12 ms; two of 512 tokens 11.24 ms
  WaitRows(1, 10, 90 * kMs, 1, 512);
  const uint64_t short_one = WaitRows(1, 20, 90 * kMs, 1, 10);
  EXPECT_THAT(PickedBy("sjf"), ElementsAre(Picked{1, {short_one}, 1}));
}

TEST_F(OneAtATimeTest, SjfCountsOfAJobThatRanInPartWhatIsLeftForEachOfItsQueries) {
  const uint64_t a = WaitRows(2, 10, 90 * kMs);
  const uint64_t b = WaitRows(2, 20, 90 * kMs);
  RunInPart(2, 6);  // a quarter of 6.2 ms is left, 0.78 ms each
  WaitRows(0, 5, 90 * kMs);
  EXPECT_THAT(PickedBy("sjf"), ElementsAre(Picked{2, {a, b}, 2}));
  services_[2].unfinished.queries[1].cancelled = true;
  EXPECT_EQ(PickedBy("sjf")[0].service, 0u) << "nobody waits for the other half";
}

TEST_F(OneAtATimeTest, WithBatchingOffAJobIsOneQuery) {
  const uint64_t oldest = WaitRows(0, 10, 50 * kMs);
  const uint64_t urgent = WaitRows(0, 20, 10 * kMs);
  services_[0].view.max_batch = 1;
  EXPECT_THAT(PickedBy("edf"), ElementsAre(Picked{0, {urgent}, 1}));
  EXPECT_THAT(PickedBy("sjf"), ElementsAre(Picked{0, {oldest}, 1})) << "equally long: the older";
}

}  // namespace
}  // namespace abacus
