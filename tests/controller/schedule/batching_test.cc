#include "controller/schedule/batching.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "tests/controller/schedule/policy_fixture.h"

namespace abacus {
namespace {

using testing::ElementsAre;

// One service. Times are in microseconds here: a pass takes base_us, and row_us for each row and token.
class BatchingTest : public BatchFixture {
 protected:
  BatchingTest() : BatchFixture(1) {}

  void Shape(std::vector<int64_t> batches, uint64_t base_us, uint64_t row_us, std::vector<int64_t> lengths = {}) {
    SetShape(0, std::move(batches), std::move(lengths), base_us * 1000, row_us * 1000);
  }
  void SetSoloUs(uint32_t bucket, uint64_t us) {
    latency_.SetBucket(ServiceId(0), bucket, services_[0].buckets[bucket].cuts, us * 1000);
  }
  // Each is more urgent than the next, and older.
  void Wait(const std::vector<uint32_t>& rows) {
    for (const uint32_t r : rows) WaitOne(r);
  }
  WaitingQuery& WaitOne(uint32_t rows = 1, uint32_t length = 0) {
    ++waited_;
    WaitRows(0, waited_, 1000 * kMs + waited_, rows, length);
    return services_[0].waiting.back();
  }
  const ServiceView& View() {
    views_ = Views();
    return views_[0];
  }
  Batch Greedy(uint32_t lead = 0, BatchOrder by = BatchOrder::kUrgency) {
    return GreedyBatch(View(), latency_, lead, by);
  }
  Batch Largest(uint64_t limit_us, double margin = 0, uint32_t lead = 0) {
    const ServiceView& view = View();
    return LargestWithin(view, {0, views_, &latency_, margin}, lead, limit_us * 1000);
  }
  double WorthUs(uint32_t rows, uint32_t length = 0) {
    WaitOne(rows, length);
    const ServiceView& view = View();
    return WorthOf(view, latency_, view.waiting.back()) / 1000;
  }
  Bucket BucketOf(const Batch& batch) const { return services_[0].spec.bucket(batch.bucket); }
  std::vector<uint32_t> QueriesOf(const Batch& batch) const { return {batch.queries.begin(), batch.queries.end()}; }

  uint64_t waited_ = 0;
  std::vector<ServiceView> views_;
};

std::vector<uint32_t> UpTo(uint32_t end) {
  std::vector<uint32_t> all(end);
  for (uint32_t i = 0; i < end; ++i) all[i] = i;
  return all;
}

// --- Worth ---------------------------------------------------------------------------------------------------------

TEST_F(BatchingTest, ARowIsWorthWhatItCostsInTheMostEfficientBatch) {
  Shape({1, 4, 8}, 1000, 100);  // 1100, 1400 and 1800 us: 1100, 350 and 225 a row
  EXPECT_DOUBLE_EQ(WorthUs(1), 225);
  EXPECT_DOUBLE_EQ(WorthUs(3), 3 * 225);
  SetSoloUs(2, 3200);  // the largest need not be the most efficient
  EXPECT_DOUBLE_EQ(WorthUs(8), 8 * 350);
}

TEST_F(BatchingTest, ABatchCountsWithTheRowsThatAJobMayHave) {
  Shape({1, 4, 8}, 1000, 100);
  services_[0].view.max_batch = 4;
  EXPECT_DOUBLE_EQ(WorthUs(1), 350) << "no job is larger";
  EXPECT_DOUBLE_EQ(WorthUs(8), 8 * 225) << "but one that a query fills by itself";
  EXPECT_DOUBLE_EQ(WorthUs(7), 1800) << "or nearly";
  services_[0].view.max_batch = 6;
  EXPECT_DOUBLE_EQ(WorthUs(1), 300) << "six rows in the bucket of eight";
  Shape({8}, 1000, 100);
  services_[0].view.max_batch = 2;
  EXPECT_DOUBLE_EQ(WorthUs(1), 900) << "two rows in the smallest bucket";
}

TEST_F(BatchingTest, WhereJobsHoldOneQueryItIsWorthWhatItCosts) {
  Shape({1, 4, 8}, 1000, 100);
  services_[0].view.max_batch = 1;
  EXPECT_DOUBLE_EQ(WorthUs(1), 1100);
  EXPECT_DOUBLE_EQ(WorthUs(3), 1400);
  services_[0].view.max_batch = 8;
  services_[0].view.batchable = false;
  EXPECT_DOUBLE_EQ(WorthUs(3), 1400);
}

TEST_F(BatchingTest, WorthGoesByTheQuerysOwnLength) {
  Shape({1, 8}, 800, 1, {10, 100});  // batch of 8: 880 and 1600 us
  EXPECT_DOUBLE_EQ(WorthUs(1, 7), 110);
  EXPECT_DOUBLE_EQ(WorthUs(1, 11), 200);
  EXPECT_DOUBLE_EQ(WorthUs(2, 100), 400);
}

TEST_F(BatchingTest, SeveralAreWorthWhatEachIs) {
  Shape({2, 4, 8}, 1000, 1, {10, 100});
  services_[0].view.max_batch = 4;
  std::mt19937 random(1);
  double sum_ns = 0;
  for (int i = 0; i < 50; ++i) sum_ns += 1000 * WorthUs(1 + random() % 8, 1 + random() % 100);
  EXPECT_NEAR(WorthOf(View(), latency_, services_[0].waiting), sum_ns, 1e-6 * sum_ns);
}

TEST_F(BatchingTest, OfAJobThoseCountThatStillWantAnAnswer) {
  Shape({1, 4}, 1000, 100);
  Wait({1, 1, 2});
  RunInPart(0, 3);
  Job& job = services_[0].unfinished;
  EXPECT_DOUBLE_EQ(WorthOf(View(), latency_, job), 4 * 350'000);
  job.queries[0].cancelled = true;
  job.queries[2].hopeless = true;
  EXPECT_DOUBLE_EQ(WorthOf(View(), latency_, job), 350'000);
}

// --- Greedy --------------------------------------------------------------------------------------------------------

TEST_F(BatchingTest, GreedyTakesTheBucketThatCostsLeastPerRowPaddingCounted) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 50; ++trial) {
    Shape({1, 2, 5, 16}, 100 + random() % 1000, 1 + random() % 200);
    ClearWork();
    for (uint32_t count = 1; count <= 20; ++count) {
      WaitOne();
      double least = std::numeric_limits<double>::max();
      for (uint32_t b = 0; b < 4; ++b) {
        const auto filled = std::min<int64_t>(count, services_[0].spec.batch_sizes[b]);
        least = std::min(least, static_cast<double>(latency_.SoloNs(ServiceId(0), b)) / static_cast<double>(filled));
      }
      const Batch batch = Greedy();
      EXPECT_EQ(batch.rows, batch.queries.size());
      EXPECT_EQ(batch.rows, std::min<int64_t>(count, BucketOf(batch).batch)) << "it is filled with what there is";
      EXPECT_DOUBLE_EQ(static_cast<double>(latency_.SoloNs(ServiceId(0), batch.bucket)) / batch.rows, least);
    }
  }
}

TEST_F(BatchingTest, ALargerBucketIsPaddedOnlyWhereThatIsCheaperThanLeavingRows) {
  Shape({1, 4, 8}, 300, 100);  // 400, 700, 1100
  Wait({1, 1, 1, 1, 1, 1});
  EXPECT_EQ(BucketOf(Greedy()).batch, 4) << "175 a row; six in eight are 183";
  WaitOne();
  EXPECT_EQ(BucketOf(Greedy()).batch, 8) << "seven in eight are 157";
  EXPECT_THAT(QueriesOf(Greedy()), testing::ElementsAreArray(UpTo(7)));
}

TEST_F(BatchingTest, NobodyIsPassedOverForASmallerOneBehind) {
  Shape({1, 2, 4}, 1000, 1);
  Wait({2, 3, 1, 1});
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0));
  EXPECT_THAT(QueriesOf(Greedy(1)), ElementsAre(1, 2)) << "three rows and one; then there is no room";
}

TEST_F(BatchingTest, MaxBatchNeedNotBeTheSizeOfABucket) {
  Shape({1, 4, 16}, 10'000, 1);
  services_[0].view.max_batch = 6;
  Wait(std::vector<uint32_t>(10, 1));
  const Batch batch = Greedy();
  EXPECT_EQ(BucketOf(batch).batch, 16);
  EXPECT_THAT(QueriesOf(batch), testing::ElementsAreArray(UpTo(6)));
}

TEST_F(BatchingTest, AQueryLargerThanMaxBatchRunsAlone) {
  Shape({1, 4, 16}, 1000, 1);
  services_[0].view.max_batch = 4;
  Wait({5, 1, 1, 5, 1});
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0));
  EXPECT_EQ(BucketOf(Greedy()).batch, 16);
  EXPECT_THAT(QueriesOf(Greedy(1)), ElementsAre(1, 2)) << "nor does it go along, nor is it passed over";
}

TEST_F(BatchingTest, AJobHoldsNoMoreQueriesThanItsTable) {
  Shape({1, 128}, 1000, 1);
  Wait(std::vector<uint32_t>(100, 1));
  EXPECT_EQ(Greedy().queries.size(), kMaxJobQueries);
  EXPECT_EQ(Greedy(0, BatchOrder::kArrival).queries.size(), kMaxJobQueries);
}

TEST_F(BatchingTest, OneQueryAJobWhereRowsDependOnEachOtherOrBatchingIsOff) {
  Shape({1, 2, 4}, 1000, 1);
  Wait({1, 1, 1});
  services_[0].view.max_batch = 1;
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0));
  services_[0].view.max_batch = 4;
  services_[0].view.batchable = false;
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0));
  EXPECT_EQ(Greedy().bucket, 0u);
}

// --- Lengths -------------------------------------------------------------------------------------------------------

TEST_F(BatchingTest, ShortOnesArePaddedToLongOnesOnlyWhereThatIsWorthIt) {
  Shape({1, 2}, 10'000, 1, {10, 100});
  WaitOne(1, 10);
  WaitOne(1, 100);
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0, 1)) << "a pass costs much, a token little";
  EXPECT_EQ(BucketOf(Greedy()).sequence, 100);
  Shape({1, 2}, 10, 10, {10, 100});
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0)) << "the other way round";
  EXPECT_EQ(BucketOf(Greedy()).sequence, 10);
}

TEST_F(BatchingTest, LongerOnesArePassedOverWhereTheBucketStaysShort) {
  Shape({1, 2}, 10, 10, {10, 100});
  WaitOne(1, 10);
  WaitOne(1, 100);
  WaitOne(1, 5);
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0, 2));
}

TEST_F(BatchingTest, ALongLeadTakesShortOnesAlong) {
  Shape({1, 2, 4}, 10'000, 1, {10, 100});
  WaitOne(1, 60);
  WaitOne(1, 5);
  WaitOne(1, 10);
  const Batch batch = Greedy();
  EXPECT_THAT(QueriesOf(batch), ElementsAre(0, 1, 2));
  EXPECT_EQ(BucketOf(batch).sequence, 100);
}

TEST_F(BatchingTest, WherePaddingChangesAnswersOnlyEqualLengthsShareAJob) {
  Shape({1, 2, 4}, 10'000, 1, {10, 100});
  services_[0].spec.sequence_padding = SequencePadding::kExact;
  WaitOne(1, 100);
  WaitOne(1, 10);
  WaitOne(1, 10);
  WaitOne(1, 100);
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0, 3));
  EXPECT_EQ(BucketOf(Greedy()).sequence, 100);
  EXPECT_THAT(QueriesOf(Greedy(1)), ElementsAre(1, 2));
  EXPECT_EQ(BucketOf(Greedy(1)).sequence, 10);
}

TEST_F(BatchingTest, WherePaddingWasAcceptedLengthsMix) {
  Shape({1, 2}, 10'000, 1, {10, 100});
  services_[0].spec.sequence_padding = SequencePadding::kAllowed;
  WaitOne(1, 10);
  WaitOne(1, 100);
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0, 1));
}

// --- Who goes along ------------------------------------------------------------------------------------------------

TEST_F(BatchingTest, SyntheticOnesAndOthersAreNeverMixed) {
  Shape({1, 2, 4}, 10'000, 1);
  Wait({1, 1, 1, 1});
  services_[0].waiting[1].synthetic = services_[0].waiting[3].synthetic = true;
  EXPECT_THAT(QueriesOf(Greedy()), ElementsAre(0, 2));
  EXPECT_THAT(QueriesOf(Greedy(1)), ElementsAre(1, 3));
}

TEST_F(BatchingTest, AProbeRunsAlone) {
  Shape({1, 2, 4}, 10'000, 1);
  Wait({1, 1, 1});
  services_[0].waiting[0].late_ns = 1;
  services_[0].waiting[1].deadline_ns += 1;
  EXPECT_THAT(QueriesOf(Greedy(0)), ElementsAre(0)) << "as the lead";
  EXPECT_EQ(BucketOf(Greedy()).batch, 1);
  std::swap(services_[0].waiting[0].late_ns, services_[0].waiting[1].late_ns);
  services_[0].waiting[1].deadline_ns -= 1;
  EXPECT_THAT(QueriesOf(Greedy(0)), ElementsAre(0, 2)) << "and beside others";
}

TEST_F(BatchingTest, ByArrivalTheLeadTakesAlongThoseThatCameAfterIt) {
  Shape({1, 2, 4}, 10'000, 1);
  // Index in the order of urgency:   0   1   2   3   4
  const std::vector<uint64_t> due = {50, 10, 40, 30, 20};  // indices 4, 0, 3, 2, 1, in the order of arrival
  for (size_t i = 0; i < due.size(); ++i) WaitRows(0, i, 1000 * kMs + due[i]);
  EXPECT_THAT(QueriesOf(Greedy(0, BatchOrder::kArrival)), ElementsAre(0, 1, 2, 3)) << "not the oldest, which is 4";
  EXPECT_THAT(QueriesOf(Greedy(4, BatchOrder::kArrival)), ElementsAre(0, 2, 3, 4)) << "not the newest, which is 1";
  EXPECT_THAT(QueriesOf(Greedy(3, BatchOrder::kArrival)), ElementsAre(1, 2, 3));
  EXPECT_THAT(QueriesOf(Greedy(3, BatchOrder::kUrgency)), ElementsAre(3, 4));
}

// --- LargestWithin -------------------------------------------------------------------------------------------------

TEST_F(BatchingTest, TheLargestWithinALimitHasTheMostRowsThatFit) {
  Shape({1, 4, 8}, 1000, 100);  // 1100, 1400, 1800
  Wait(std::vector<uint32_t>(7, 1));
  EXPECT_EQ(Largest(1'800).rows, 7u);
  EXPECT_EQ(Largest(1'799).rows, 4u);
  EXPECT_EQ(Largest(1'399).rows, 1u);
  EXPECT_EQ(Largest(1).rows, 1u) << "the lead alone if nothing fits";
  EXPECT_EQ(Largest(1'800, 0.1).rows, 4u) << "1800 and its margin do not fit";
  EXPECT_THAT(QueriesOf(Largest(1'800, 0, 5)), ElementsAre(5, 6));
}

TEST_F(BatchingTest, TheLargestIsTakenEvenWhereASmallerOneCostsLessPerRow) {
  Shape({1, 8}, 0, 100);
  Wait({1, 1, 1});
  EXPECT_EQ(Greedy().rows, 1u);
  EXPECT_EQ(Largest(800).rows, 3u);
  EXPECT_EQ(Largest(799).rows, 1u);
}

// --- Choices -------------------------------------------------------------------------------------------------------

TEST_F(BatchingTest, WhoIsLeftIsTheMostUrgentThatDoesNotGoAlong) {
  Shape({1, 2, 4}, 1000, 1, {10, 100});
  WaitOne(1, 10);
  WaitOne(1, 100);
  WaitOne(1, 10);
  const ServiceView& view = View();
  const BatchChoices choices(view, latency_);
  size_t alone = 0, left_out = 0, everyone = 0;
  for (const BatchChoices::Choice& choice : choices.all()) {
    const std::vector<uint32_t> queries = QueriesOf(choices.Of(choice));
    const WaitingQuery* left = choices.LeftBeside(choice);
    if (queries.size() == 3) {
      EXPECT_EQ(left, nullptr);
      ++everyone;
    } else if (queries == std::vector<uint32_t>{0, 1}) {
      EXPECT_EQ(left, &view.waiting[2]);
    } else {
      EXPECT_EQ(left, &view.waiting[1]);
      ++(queries.size() == 1 ? alone : left_out);
    }
  }
  EXPECT_GT(alone, 0u);
  EXPECT_GT(left_out, 0u) << "the long one in the middle";
  EXPECT_GT(everyone, 0u);
}

TEST_F(BatchingTest, AnyChoiceIsAllowedHasABucketOfItsOwnAndIsWorthAtMostItsTime) {
  std::mt19937 random(3);
  size_t full = 0, shared = 0;
  for (int trial = 0; trial < 400; ++trial) {
    ClearWork();
    std::vector<int64_t> lengths;
    if (trial % 3 != 0) {
      for (int64_t i = 1; i <= 1 + trial % 12; ++i) lengths.push_back(8 * i);
    }
    Shape({1, 2, 4, 8, 16}, random() % 2000, 1 + random() % 100, lengths);
    State& state = services_[0];
    state.view.max_batch = 1 + random() % 16;
    state.spec.sequence_padding = trial % 2 == 0 ? SequencePadding::kHarmless : SequencePadding::kExact;
    const uint32_t count = 1 + random() % 40;
    for (uint32_t i = 0; i < count; ++i) {
      uint32_t length = lengths.empty() ? 0 : 1 + random() % static_cast<uint32_t>(lengths.back());
      if (trial % 2 != 0) length = (length + 7) / 8 * 8;
      WaitingQuery& query = WaitOne(random() % 3 == 0 ? 1 + random() % 16 : 1, length);
      query.synthetic = random() % 4 == 0;
      query.late_ns = random() % 10 == 0 ? 1 : 0;
      query.deadline_ns += random() % 20;
    }
    const ServiceView& view = View();
    const auto lead = static_cast<uint32_t>(random() % count);
    const BatchOrder by = random() % 2 == 0 ? BatchOrder::kUrgency : BatchOrder::kArrival;
    const BatchChoices choices(view, latency_, lead, by);
    ASSERT_FALSE(choices.all().empty());
    EXPECT_EQ(choices.all().front().bucket, view.waiting[lead].bucket) << "the one that holds the lead";
    std::vector<uint32_t> buckets;
    for (const BatchChoices::Choice& choice : choices.all()) {
      const Batch batch = choices.Of(choice);
      EXPECT_THAT(buckets, testing::Not(testing::Contains(batch.bucket)));
      buckets.push_back(batch.bucket);
      const auto [size, length] = state.spec.bucket(batch.bucket);
      uint32_t rows = 0;
      double worth_ns = 0;
      EXPECT_THAT(batch.queries, testing::Contains(lead));
      EXPECT_TRUE(std::ranges::is_sorted(batch.queries, std::ranges::less_equal{})) << "none twice";
      for (const uint32_t index : batch.queries) {
        const WaitingQuery& query = view.waiting[index];
        rows += query.rows;
        worth_ns += WorthOf(view, latency_, query);
        EXPECT_EQ(query.synthetic, view.waiting[lead].synthetic);
        EXPECT_TRUE(index == lead || !query.probe());
        EXPECT_TRUE(trial % 2 == 0 ? query.sequence <= length : query.sequence == length);
        EXPECT_TRUE(by == BatchOrder::kUrgency ? index >= lead : query.order >= view.waiting[lead].order);
      }
      EXPECT_EQ(rows, batch.rows);
      EXPECT_LE(rows, size);
      EXPECT_TRUE(batch.queries.size() == 1 || rows <= view.max_batch);
      EXPECT_TRUE(batch.queries.size() == 1 || !view.waiting[lead].probe());
      EXPECT_NEAR(choice.worth_ns, worth_ns, 1e-6 * worth_ns);
      EXPECT_EQ(choice.solo_ns, latency_.SoloNs(ServiceId(0), batch.bucket));
      EXPECT_LE(choice.worth_per_time(), 1 + 1e-9);
      full += choice.worth_per_time() > 1 - 1e-9 ? 1 : 0;
      shared += batch.queries.size() > 1 ? 1 : 0;
    }
  }
  EXPECT_GT(full, 20u);
  EXPECT_GT(shared, 200u);
}

}  // namespace
}  // namespace abacus
