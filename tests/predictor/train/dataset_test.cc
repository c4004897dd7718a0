#include "predictor/train/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "tests/predictor/train/synthetic_profile.h"

namespace abacus {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kNames[] = {"one.jsonl", "two.jsonl"};

Result<Dataset> Make(std::vector<ProfileData> profiles, const DatasetOptions& options = {}) {
  return MakeDataset(std::move(profiles), kNames, options);
}

ProfileData SmallProfile() {
  SyntheticOptions options;
  options.models = 3;
  options.groups = {10, 300, 30};
  return MakeSyntheticProfile(options);
}

TEST(Dataset, HoldsGroupsOfTwoAndMore) {
  const auto dataset = Make({SmallProfile()});
  ASSERT_TRUE(dataset) << dataset.error().message();
  EXPECT_EQ(dataset->samples.size(), 330u);
  EXPECT_EQ(dataset->columns.rows(), 330u);
  EXPECT_EQ(dataset->columns.columns, FeatureCount(3));
  ASSERT_EQ(dataset->alone_errors.size(), 10u);
  for (const double error : dataset->alone_errors) EXPECT_LT(error, 0.05);
  ASSERT_EQ(dataset->sets.size(), 4u);
  EXPECT_EQ(dataset->sets[0].name, "model0 + model1");
  EXPECT_EQ(dataset->sets[3].name, "model0 + model1 + model2");
  EXPECT_EQ(dataset->sets[3].samples, 30u);
  EXPECT_THAT(dataset->warnings, IsEmpty());
}

TEST(Dataset, SplitsAreDisjointAndStayWhenSamplesAreAdded) {
  DatasetOptions options;
  const auto dataset = Make({SmallProfile()}, options);
  ProfileData more = SmallProfile();
  std::reverse(more.groups.begin(), more.groups.end());
  GroupSample added = more.groups.front();
  added.index = 10'000;
  more.groups.insert(more.groups.begin(), added);
  const auto larger = Make({more}, options);
  ASSERT_TRUE(dataset && larger);

  const auto indices = [](const Dataset& of, const std::vector<uint32_t>& rows) {
    std::set<uint64_t> result;
    for (const uint32_t row : rows) result.insert(of.samples[row].index);
    result.erase(10'000);
    return result;
  };
  const Split split = HoldoutSplit(*dataset, options), split_larger = HoldoutSplit(*larger, options);
  EXPECT_EQ(indices(*dataset, split.train), indices(*larger, split_larger.train));
  EXPECT_EQ(indices(*dataset, split.validation), indices(*larger, split_larger.validation));
  EXPECT_EQ(indices(*dataset, split.test), indices(*larger, split_larger.test));
  EXPECT_EQ(split.train.size() + split.validation.size() + split.test.size(), 330u);
  EXPECT_NEAR(static_cast<double>(split.test.size()), 0.15 * 330, 25);

  std::vector<int> tested(330);
  for (uint32_t fold = 0; fold < options.folds; ++fold) {
    const Split part = FoldSplit(*dataset, options, fold);
    EXPECT_EQ(part.train.size() + part.validation.size() + part.test.size(), 330u);
    for (const uint32_t row : part.test) ++tested[row];
  }
  EXPECT_EQ(std::count(tested.begin(), tested.end(), 1), 330);
}

TEST(Dataset, TooFewSamplesSaysHowManyMore) {
  ProfileData profile = SmallProfile();
  profile.groups.resize(10 + 150);
  const auto dataset = Make({profile});
  ASSERT_FALSE(dataset);
  EXPECT_THAT(dataset.error().message(),
              HasSubstr("150 groups of two or more models are too few to train on: 50 more"));
}

TEST(Dataset, SetsWithFewSamplesAreNotTrainedAndNeverTested) {
  ProfileData profile = SmallProfile();
  profile.groups.resize(10 + 300 + 19);
  DatasetOptions options;
  const auto dataset = Make({profile}, options);
  ASSERT_TRUE(dataset);
  EXPECT_FALSE(dataset->sets[3].trained);
  EXPECT_THAT(dataset->warnings, Contains(HasSubstr("model0 + model1 + model2 has only 19 groups and needs 20")));
  for (const uint32_t row : HoldoutSplit(*dataset, options).test) EXPECT_NE(dataset->set_of[row], 3u);

  options.min_set_samples = 1000;
  EXPECT_THAT(Make({profile}, options).error().message(), HasSubstr("no set of models has the 1000 groups"));
}

TEST(Dataset, MissingSoloTimesNameTheBucket) {
  ProfileData profile = SmallProfile();
  profile.models[1].buckets[2].us.clear();
  profile.models[1].buckets[2].operators_at.clear();
  const auto dataset = Make({profile});
  ASSERT_FALSE(dataset);
  EXPECT_THAT(dataset.error().message(), HasSubstr("solo times of model1 b16 are missing"));
  // Another profile may have them.
  EXPECT_TRUE(Make({profile, SmallProfile()}));
}

TEST(Dataset, JoinsProfilesOfOneSubjectOnly) {
  ProfileData second = SmallProfile();
  second.seed = 99;
  second.models[1].structure = "0123";
  for (double& us : second.models[2].buckets[0].us) us *= 1.2;
  const auto joined = Make({SmallProfile(), second});
  ASSERT_TRUE(joined);
  EXPECT_EQ(joined->samples.size(), 660u);
  EXPECT_EQ(joined->subject.models[1].structure, "0123") << "the first one is of before there were structures";
  EXPECT_EQ(std::set(joined->hashes.begin(), joined->hashes.end()).size(), 660u);
  EXPECT_THAT(joined->warnings, Contains(HasSubstr("two.jsonl: the solo time of model2 b1 differs by 20 %")));

  second.device = "another GPU";
  const auto refused = Make({SmallProfile(), second});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("two.jsonl cannot be joined with one.jsonl"));
  EXPECT_THAT(refused.error().message(), HasSubstr("another GPU"));
}

TEST(Dataset, MadeUpGroupsAreOfTheRangesThatOccur) {
  const auto dataset = Make({SmallProfile()});
  ASSERT_TRUE(dataset);
  const std::vector<uint32_t> rows = {3, 4, 5};
  const Matrix made_up = MakeUpGroups(*dataset, rows, 50, 1);
  ASSERT_EQ(made_up.rows(), 50u);
  std::set<std::vector<float>> known;
  for (const uint32_t row : rows) {
    for (uint32_t m = 0; m < 3; ++m) {
      const auto columns = dataset->columns.row(row).subspan(m * kRangeColumns, kRangeColumns);
      known.emplace(columns.begin(), columns.end());
    }
  }
  for (size_t i = 0; i < made_up.rows(); ++i) {
    for (uint32_t m = 0; m < 3; ++m) {
      const auto columns = made_up.row(i).subspan(m * kRangeColumns, kRangeColumns);
      EXPECT_TRUE(columns[0] == 0 || known.contains(std::vector<float>(columns.begin(), columns.end())));
    }
  }
  EXPECT_EQ(made_up.values, MakeUpGroups(*dataset, rows, 50, 1).values);
}

TEST(Dataset, RangesTextNamesBuckets) {
  SyntheticOptions options;
  options.last_sequences = {64};
  const ProfileData profile = MakeSyntheticProfile(options);
  const ProfiledRange ranges[] = {{0, 1, 0, 5}, {3, 2, 7, 9}};
  EXPECT_EQ(RangesText(profile, ranges), "model0 b4 0..5 + model3 b16 s64 7..9");
}

TEST(Dataset, FingerprintFollowsTheData) {
  ProfileData profile = SmallProfile();
  const uint64_t before = Fingerprint(*Make({profile}));
  EXPECT_EQ(Fingerprint(*Make({profile})), before);
  profile.groups.back().us *= 1.001;
  EXPECT_NE(Fingerprint(*Make({profile})), before);
}

}  // namespace
}  // namespace abacus
