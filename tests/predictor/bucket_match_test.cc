#include "predictor/bucket_match.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace abacus {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

// Batches 1, 4, 16, sequences 16, 64; a pass takes 100 us a row and 16 tokens, and a round costs 10 us.
double WholeUs(int64_t batch, int64_t sequence) { return 10 + 100.0 * static_cast<double>(batch * sequence) / 16; }

ModelProfile Grid() {
  ModelProfile model{"text", {}};
  for (const int64_t batch : {1, 4, 16}) {
    for (const int64_t sequence : {16, 64}) {
      const double whole_us = WholeUs(batch, sequence);
      model.buckets.push_back({batch, sequence, 8, {0, 2, 8}, {10, 10 + (whole_us - 10) / 2, whole_us}});
    }
  }
  return model;
}

BucketFacts Fact(int64_t batch, int64_t sequence, double us, uint32_t operators = 8) {
  return {batch, sequence, operators, {0, operators / 2, operators}, static_cast<uint64_t>(us * 1e3)};
}
BucketFacts Fact(int64_t batch, int64_t sequence) { return Fact(batch, sequence, WholeUs(batch, sequence)); }

std::vector<BucketMatch> Match(const ModelProfile& model, const std::vector<BucketFacts>& facts) {
  auto matches = MatchBuckets(model, facts);
  EXPECT_TRUE(matches) << matches.error().message();
  return matches ? *matches : std::vector<BucketMatch>(facts.size());
}

TEST(BucketMatch, TheSameShapeIsTheProfiledBucketWhateverItsPlace) {
  const std::vector<BucketMatch> matches = Match(Grid(), {Fact(16, 64), Fact(1, 16)});
  for (const auto& [match, bucket] : {std::pair(matches[0], 5u), std::pair(matches[1], 0u)}) {
    ASSERT_EQ(match.corners.size(), 1u);
    EXPECT_EQ(match.corners[0].bucket, bucket);
    EXPECT_EQ(match.corners[0].weight, 1);
    EXPECT_THAT(match.note, IsEmpty());
    EXPECT_EQ(match.whole_us, Grid().buckets[bucket].whole_us());
    ASSERT_EQ(match.shares.size(), 9u);
    EXPECT_FLOAT_EQ(match.shares[1], 0.25f);
    EXPECT_FLOAT_EQ(match.shares[2], 0.5f) << "of the profile, not of the worker's cuts";
    EXPECT_FLOAT_EQ(match.shares[8], 1);
  }
}

TEST(BucketMatch, AlongOneAxisTheMeasuredTimeSaysHowFarBetween) {
  const std::vector<BucketMatch> matches = Match(Grid(), {Fact(2, 16), Fact(4, 32), Fact(8, 64)});
  EXPECT_EQ(matches[0].note, "batch 2 of text was not profiled: between 1 and 4");
  EXPECT_EQ(matches[1].note, "sequence 32 of text was not profiled: between 16 and 64");
  const std::array<std::pair<uint32_t, uint32_t>, 3> corners = {{{0, 2}, {2, 3}, {3, 5}}};
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(matches[i].corners.size(), 2u);
    EXPECT_EQ(matches[i].corners[0].bucket, corners[i].first);
    EXPECT_EQ(matches[i].corners[1].bucket, corners[i].second);
    EXPECT_NEAR(matches[i].corners[1].weight, 1.0 / 3, 1e-9);
    EXPECT_NEAR(matches[i].corners[0].weight, 2.0 / 3, 1e-9);
  }
  EXPECT_NEAR(matches[0].whole_us, WholeUs(2, 16), 1e-6);
}

TEST(BucketMatch, BetweenInBothHasFourCornersAndTakesWhatWasMeasured) {
  const BucketMatch match = Match(Grid(), {Fact(8, 32)})[0];
  ASSERT_EQ(match.corners.size(), 4u);
  double weights = 0, us = 0;
  for (const BucketMatch::Corner& corner : match.corners) {
    EXPECT_GT(corner.weight, 0);
    weights += corner.weight;
    us += corner.weight * Grid().buckets[corner.bucket].whole_us();
  }
  EXPECT_NEAR(weights, 1, 1e-9);
  EXPECT_NEAR(us, WholeUs(8, 32), 1e-6);
  EXPECT_THAT(match.note, AllOf(HasSubstr("batch 8 of text"), HasSubstr("sequence 32 of text")));
}

TEST(BucketMatch, AWorkerThatMeasuresDifferentlyIsCorrectedByWhatBothKnow) {
  // Everything takes twice as long there, one time ten times.
  const std::vector<BucketMatch> matches =
      Match(Grid(), {Fact(1, 16, 10 * WholeUs(1, 16)), Fact(4, 16, 2 * WholeUs(4, 16)),
                     Fact(16, 16, 2 * WholeUs(16, 16)), Fact(8, 16, 2 * WholeUs(8, 16)), Fact(32, 16, 6400)});
  EXPECT_NEAR(matches[3].whole_us, WholeUs(8, 16), 1e-6);
  EXPECT_NEAR(matches[4].whole_us, 3200, 1e-6) << "outside, too";
}

TEST(BucketMatch, TimesNeverFallWithTheBatch) {
  // Noise: 6 measured shorter than 5, 12 longer than 16, 32 shorter than 16, and the smallest longer than 1.
  ModelProfile model = Grid();
  const std::vector<BucketMatch> matches = Match(model, {Fact(1, 16), Fact(4, 16), Fact(5, 16, 700), Fact(6, 16, 500),
                                                         Fact(12, 16, 1900), Fact(16, 16), Fact(32, 16, 1300)});
  for (size_t i = 1; i < matches.size(); ++i) EXPECT_GE(matches[i].whole_us, matches[i - 1].whole_us) << i;
  EXPECT_GE(matches[3].corners[1].weight, matches[2].corners[1].weight);
  EXPECT_EQ(matches[4].corners[1].weight, 1);
  model.buckets.erase(model.buckets.begin(), model.buckets.begin() + 2);
  EXPECT_EQ(Match(model, {Fact(1, 16, 900), Fact(4, 16)})[0].whole_us, WholeUs(4, 16));
}

TEST(BucketMatch, OutsideOfTheProfileThereAreNoCorners) {
  const auto note = [&](const BucketFacts& fact) {
    const BucketMatch match = Match(Grid(), {fact})[0];
    EXPECT_THAT(match.corners, IsEmpty());
    EXPECT_NEAR(match.whole_us, static_cast<double>(fact.solo_ns) * 1e-3, 1e-9);
    return match.note;
  };
  EXPECT_EQ(note(Fact(32, 16)), "batch 32 of text was not profiled: above 16, so solo times are added up");
  EXPECT_EQ(note(Fact(4, 8)), "sequence 8 of text was not profiled: below 16, so solo times are added up");
  EXPECT_THAT(note(Fact(8, 128)), HasSubstr("sequence 128 of text was not profiled: above 64"));
  ModelProfile hole = Grid();
  hole.buckets.erase(hole.buckets.begin() + 3);
  EXPECT_EQ(Match(hole, {Fact(8, 64)})[0].note,
            "batch 8, sequence 64 of text was not profiled, nor were all of its neighbours");
  EXPECT_THAT(Match(hole, {Fact(8, 64)})[0].corners, IsEmpty());
}

TEST(BucketMatch, OtherOperatorsTakeTheSharesOfTheWorkersOwnCuts) {
  BucketFacts fact = Fact(2, 16, WholeUs(2, 16), 10);
  fact.cuts = {0, 1, 2, 6, 10};
  const BucketMatch match = Match(Grid(), {fact})[0];
  ASSERT_EQ(match.shares.size(), 11u);
  for (const auto& [op, share] : {std::pair(0, 0.0f), {1, 0.25f}, {2, 0.5f}, {4, 0.625f}, {6, 0.75f}, {10, 1.0f}}) {
    EXPECT_FLOAT_EQ(match.shares[static_cast<size_t>(op)], share) << op;
  }
  EXPECT_FLOAT_EQ(Match(Grid(), {Fact(2, 16)})[0].shares[2], 0.5f) << "the same operators: as profiled";
}

TEST(BucketMatch, RefusesWhatIsOfAnotherModel) {
  const auto message = [](const BucketFacts& fact) {
    const auto matches = MatchBuckets(Grid(), std::vector{fact});
    return matches ? std::string("matched") : matches.error().message();
  };
  EXPECT_EQ(message(Fact(4, 16, 410, 9)), "batch 4, sequence 16 of text had 8 operators and has 9 now");
  EXPECT_EQ(message(Fact(4, 16, 270)), "batch 4, sequence 16 of text took 410 us alone and takes 270 us now");
  EXPECT_EQ(message(Fact(8, 16, 270)), "batch 8, sequence 16 of text took 410 us alone and takes 270 us now");
  EXPECT_EQ(message(Fact(4, 16, 275)), "matched");
  EXPECT_EQ(message(Fact(4, 16, 9000)), "matched") << "a busy GPU";
  BucketFacts uncut = Fact(8, 16);
  uncut.cuts.clear();
  EXPECT_THAT(message(uncut), HasSubstr("does not say where it can be cut"));
}

}  // namespace
}  // namespace abacus
