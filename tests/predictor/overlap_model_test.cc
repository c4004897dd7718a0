#include "predictor/overlap_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/predictor/count_allocations.h"
#include "tests/predictor/small_predictor.h"

namespace abacus {
namespace {

using testing::HasSubstr;

constexpr uint32_t kA = 0, kB = 1, kC = 2;  // numbers of services, named as their models

OperatorRange Of(uint32_t service, uint32_t bucket, uint32_t first, uint32_t last) {
  return {ServiceId(service), bucket, first, last};
}

class OverlapModelTest : public testing::Test {
 protected:
  OverlapModelTest() : file_(test::SmallPredictor()), model_(Make(file_)) {
    for (const uint32_t service : {kA, kB, kC}) EXPECT_TRUE(Connect(service, service).ok());
  }
  static std::unique_ptr<OverlapModel> Make(const PredictorFile& file) {
    auto model = OverlapModel::Create(file);
    EXPECT_TRUE(model) << model.error().message();
    return std::move(*model);
  }
  Status Connect(uint32_t service, uint32_t model,
                 const std::function<void(OverlapModel::ServiceFacts*)>& change = nullptr) {
    OverlapModel::ServiceFacts facts = test::FactsOf(file_.subject, file_.subject.models[model]);
    if (change) change(&facts);
    return model_->Connect(ServiceId(service), file_.subject.models[model].name, facts);
  }
  // A worker of "a" with one more bucket, at the end.
  static std::function<void(OverlapModel::ServiceFacts*)> AddBatch(int64_t batch, uint64_t solo_ns) {
    return [=](auto* facts) { facts->buckets.push_back({batch, 0, 8, {0, 4, 8}, solo_ns}); };
  }
  Prediction Predict(const std::vector<OperatorRange>& group) const { return model_->Predict(group); }
  // What the network says, by way of the trainer's columns.
  uint64_t Expected(const std::vector<ProfiledRange>& ranges) const {
    std::vector<float> columns(FeatureCount(3));
    FillColumns(file_.subject, ranges, columns);
    GroupTimes times;
    for (const ProfiledRange& r : ranges) {
      times.Add(TimesOf(file_.subject.models[r.model].buckets[r.bucket], r.first, r.last).solo_us());
    }
    return static_cast<uint64_t>(DecodeTime(Mlp::Create(file_.layers)->Evaluate(columns), times) * 1e3);
  }
  // The sum of what each range takes by its share of cut intervals.
  uint64_t Additive(const std::vector<OperatorRange>& group) const {
    AdditiveModel additive;
    for (uint32_t service = 0; service < 3; ++service) {
      const auto facts = test::FactsOf(file_.subject, file_.subject.models[service]);
      for (uint32_t b = 0; b < facts.buckets.size(); ++b) {
        additive.SetBucket(ServiceId(service), b, facts.buckets[b].cuts, facts.buckets[b].solo_ns);
      }
    }
    return additive.PredictNs(group);
  }
  void ExpectAdditive(const std::vector<OperatorRange>& group) const {
    const Prediction prediction = Predict(group);
    EXPECT_FALSE(prediction.trained);
    EXPECT_EQ(prediction.ns, Additive(group));
  }

  const PredictorFile file_;
  std::unique_ptr<OverlapModel> model_;
};

TEST_F(OverlapModelTest, ARangeAloneTakesItsSoloTime) {
  const std::vector<std::pair<OperatorRange, double>> solo_us = {{Of(kA, 0, 0, 8), 210},
                                                                 {Of(kA, 0, 2, 8), 160},
                                                                 {Of(kA, 0, 2, 4), 60},
                                                                 {Of(kA, 1, 0, 8), 410},
                                                                 {Of(kC, 0, 3, 4), 45}};
  for (const auto& [range, us] : solo_us) {
    const Prediction prediction = Predict({range});
    EXPECT_TRUE(prediction.trained);
    EXPECT_NEAR(static_cast<double>(prediction.ns), us * 1e3, 1);
  }
}

TEST_F(OverlapModelTest, CutsMayDifferFromTheProfiledOnes) {
  ASSERT_TRUE(Connect(kA, kA, [](auto* facts) { facts->buckets[0].cuts = {0, 1, 3, 5, 7, 8}; }).ok());
  EXPECT_NEAR(static_cast<double>(Predict({Of(kA, 0, 0, 1)}).ns), 35e3, 1);
  EXPECT_NEAR(static_cast<double>(Predict({Of(kA, 0, 3, 7)}).ns), (185 - 85 + 10) * 1e3, 1);
  EXPECT_TRUE(Predict({Of(kA, 0, 3, 7), Of(kB, 0, 1, 10)}).trained);
}

TEST_F(OverlapModelTest, AGroupTakesWhatTheNetworkSaysOfItsColumns) {
  const auto expect = [&](const std::vector<ProfiledRange>& ranges) {
    std::vector<OperatorRange> group;
    for (const ProfiledRange& r : ranges) group.push_back(Of(r.model, r.bucket, r.first, r.last));
    const Prediction prediction = Predict(group);
    EXPECT_TRUE(prediction.trained);
    const auto expected = static_cast<double>(Expected(ranges));
    EXPECT_NEAR(static_cast<double>(prediction.ns), expected, expected * 1e-5 + 1);
  };
  expect({{0, 0, 0, 8}, {1, 0, 0, 10}});
  expect({{1, 0, 3, 10}, {0, 1, 0, 5}});
  expect({{0, 1, 2, 8}, {2, 0, 0, 4}});
  expect({{2, 0, 1, 3}, {0, 0, 0, 2}, {1, 0, 5, 10}});
}

TEST_F(OverlapModelTest, PredictingChoicesIsPredictingEach) {
  ASSERT_TRUE(Connect(kA, kA, AddBatch(2, 300'000)).ok());  // bucket 2 lies between 0 and 1
  const std::vector<std::vector<OperatorRange>> groups = {{},
                                                          {Of(kA, 0, 0, 8)},
                                                          {Of(kA, 2, 0, 8)},
                                                          {Of(kA, 1, 2, 8), Of(kC, 0, 0, 3)},
                                                          {Of(kC, 0, 0, 3)},  // {b, c} is not trained
                                                          {Of(kB, 0, 0, 3)},  // with b twice the same model
                                                          {Of(9, 0, 0, 3)}};  // not connected
  // Of several services, buckets and places, more than are evaluated at once; some not known, some empty.
  std::vector<OperatorRange> choices;
  for (const uint32_t last : {1u, 2u, 3u, 5u, 8u, 10u, 99u}) {
    for (const uint32_t service : {kA, kB, kC, 9u}) {
      for (const uint32_t bucket : {0u, 1u, 2u, 7u}) {
        for (const uint32_t first : {0u, 2u}) choices.push_back(Of(service, bucket, first, last));
      }
    }
  }
  for (const std::vector<OperatorRange>& group : groups) {
    std::vector<Prediction> out(choices.size()), plain(choices.size());
    model_->PredictChoices(group, choices, out);
    model_->LatencyModel::PredictChoices(group, choices, plain);  // the interface's own way of doing it
    for (size_t i = 0; i < choices.size(); ++i) {
      if (choices[i].last < choices[i].first) continue;
      std::vector<OperatorRange> all = group;
      all.push_back(choices[i]);
      const Prediction one = Predict(all);
      EXPECT_EQ(out[i].ns, one.ns);
      EXPECT_EQ(out[i].trained, one.trained);
      EXPECT_EQ(plain[i].ns, one.ns);
      EXPECT_EQ(plain[i].trained, one.trained);
    }
  }
}

TEST_F(OverlapModelTest, PredictingEndsIsPredictingChoices) {
  std::vector<uint32_t> lasts;  // more than a model has cut points
  for (uint32_t i = 0; i < 150; ++i) lasts.push_back(1 + i % 10);
  std::vector<Prediction> out(lasts.size());
  model_->PredictEnds(std::vector{Of(kA, 0, 0, 8)}, Of(kB, 0, 0, 0), lasts, out);
  for (size_t i = 0; i < lasts.size(); ++i) {
    EXPECT_EQ(out[i].ns, Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, lasts[i])}).ns);
    EXPECT_TRUE(out[i].trained);
  }
}

TEST_F(OverlapModelTest, WhatItWasNotTrainedForIsTheSumOfTheParts) {
  EXPECT_TRUE(Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)}).trained);
  ExpectAdditive({Of(kB, 0, 0, 10), Of(kC, 0, 0, 4)});   // a set that it was not trained on
  ExpectAdditive({Of(kA, 0, 0, 8), Of(9, 0, 0, 4)});     // a service it does not know
  ExpectAdditive({Of(kA, 5, 0, 8)});                     // a bucket
  ExpectAdditive({Of(kA, 0, 0, 99), Of(kB, 0, 0, 10)});  // more operators than there are
  ExpectAdditive({Of(kA, 0, 4, 4)});                     // nothing
  ExpectAdditive({});
}

TEST_F(OverlapModelTest, TwoServicesOfOneModelAreTheSumOfTheParts) {
  ASSERT_TRUE(Connect(3, kA).ok());
  EXPECT_TRUE(Predict({Of(3, 0, 0, 8), Of(kB, 0, 0, 10)}).trained);
  const Prediction twice = Predict({Of(kA, 0, 0, 8), Of(3, 0, 0, 8)});
  EXPECT_FALSE(twice.trained);
  EXPECT_EQ(twice.ns, 420'000u);
  EXPECT_FALSE(Predict({Of(kA, 0, 0, 8), Of(3, 0, 0, 8), Of(kB, 0, 0, 10)}).trained);
}

TEST_F(OverlapModelTest, ConnectRefusesWhatDoesNotFit) {
  using Facts = OverlapModel::ServiceFacts;
  const std::vector<std::pair<std::function<void(Facts*)>, std::string>> cases = {
      {[](Facts* f) { f->device = "Other GPU"; }, "trained on \"Test GPU\", this is \"Other GPU\""},
      {[](Facts* f) { f->libraries = "cuda 13"; }, "cuda 13"},
      {[](Facts* f) { f->buckets[1].operators = 9; }, "batch 4 of a had 8 operators and has 9 now"},
      {[](Facts* f) { f->buckets[0].solo_ns = 139'000; }, "batch 1 of a took 210 us alone and takes 139 us now"},
      {[](Facts* f) { f->buckets[0].solo_ns = 0; }, "takes 0 us now"}};
  for (const auto& [change, message] : cases) {
    ASSERT_TRUE(Connect(kA, kA).ok());
    EXPECT_TRUE(Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)}).trained);
    EXPECT_THAT(Connect(kA, kA, change).message(), HasSubstr(message));
    EXPECT_FALSE(Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)}).trained) << message;
    EXPECT_FALSE(Predict({Of(kA, 0, 0, 8)}).trained);
    EXPECT_TRUE(Predict({Of(kB, 0, 0, 10)}).trained) << "the others stay";
  }
  EXPECT_TRUE(Connect(kA, kA, [](Facts* f) { f->buckets[0].solo_ns = 999'000; }).ok())
      << "slower is no sign of another model";
  EXPECT_THAT(model_->Connect(ServiceId(kA), "z", test::FactsOf(file_.subject, file_.subject.models[0])).message(),
              HasSubstr("not trained with a model named z"));
}

TEST_F(OverlapModelTest, BucketsAreMatchedByShape) {
  const uint64_t small = Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)}).ns;
  const uint64_t large = Predict({Of(kA, 1, 2, 8), Of(kB, 0, 0, 10)}).ns;
  ASSERT_TRUE(Connect(kA, kA, [](auto* facts) { std::swap(facts->buckets[0], facts->buckets[1]); }).ok());
  EXPECT_EQ(Predict({Of(kA, 1, 0, 8), Of(kB, 0, 0, 10)}).ns, small);
  EXPECT_EQ(Predict({Of(kA, 0, 2, 8), Of(kB, 0, 0, 10)}).ns, large);
  ASSERT_TRUE(Connect(kA, kA, [](auto* facts) { facts->buckets.erase(facts->buckets.begin()); }).ok());
  EXPECT_EQ(Predict({Of(kA, 0, 2, 8), Of(kB, 0, 0, 10)}).ns, large);
  EXPECT_TRUE(model_->notes(ServiceId(kA)).empty());
}

TEST_F(OverlapModelTest, ABatchBetweenProfiledOnesIsPredictedBetweenThem) {
  const std::vector<OperatorRange> others[] = {{}, {Of(kB, 0, 0, 10)}, {Of(kB, 0, 3, 7), Of(kC, 0, 0, 4)}};
  for (const std::vector<OperatorRange>& other : others) {
    for (const auto& [first, last] : {std::pair(0u, 8u), std::pair(0u, 4u), std::pair(4u, 8u)}) {
      const auto with = [&](uint32_t bucket) {
        std::vector<OperatorRange> group = other;
        group.push_back(Of(kA, bucket, first, last));
        const Prediction prediction = Predict(group);
        EXPECT_TRUE(prediction.trained);
        return prediction.ns;
      };
      ASSERT_TRUE(Connect(kA, kA).ok());
      const uint64_t small = with(0), large = with(1);
      uint64_t before = std::min(small, large);
      for (const uint64_t solo_ns : {150'000, 210'000, 250'000, 310'000, 399'000, 410'000, 900'000}) {
        ASSERT_TRUE(Connect(kA, kA, AddBatch(2, solo_ns)).ok());
        const uint64_t between = with(2);
        EXPECT_LE(std::min(small, large), between + 1);
        EXPECT_LE(between, std::max(small, large) + 1);
        if (small <= large) {
          EXPECT_LE(before, between + 1);
        }
        before = between;
      }
    }
  }
  EXPECT_THAT(model_->notes(ServiceId(kA)), testing::ElementsAre("batch 2 of a was not profiled: between 1 and 4"));
  EXPECT_EQ(model_->SoloNs(ServiceId(kA), 2), 410'000u) << "no more than the larger one";
}

TEST_F(OverlapModelTest, SeveralRangesBetweenProfiledBucketsStayWithinBounds) {
  PredictorFile file = file_;
  for (ModelProfile& model : file.subject.models) {
    BucketProfile larger = model.buckets.back();
    larger.batch *= 4;
    for (double& us : larger.us) us *= 2;
    model.buckets.push_back(larger);
  }
  model_ = Make(file);
  std::vector<OperatorRange> group;
  for (const uint32_t m : {kA, kB, kC}) {
    const ModelProfile& profile = file.subject.models[m];
    OverlapModel::ServiceFacts facts = test::FactsOf(file.subject, profile);
    BucketFacts between = facts.buckets.back();
    between.batch /= 2;
    between.solo_ns = between.solo_ns * 3 / 4;
    facts.buckets.push_back(between);
    ASSERT_TRUE(model_->Connect(ServiceId(m), profile.name, facts).ok());
    group.push_back(Of(m, static_cast<uint32_t>(facts.buckets.size() - 1), 0, between.operators));
  }
  double sum = 0, longest = 0;
  for (const OperatorRange& range : group) {
    const auto solo = static_cast<double>(model_->PredictNs(range));
    sum += solo;
    longest = std::max(longest, solo);
  }
  const Prediction prediction = Predict(group);
  EXPECT_TRUE(prediction.trained);
  EXPECT_GE(static_cast<double>(prediction.ns), kLowestShare * longest - 1000);
  EXPECT_LE(static_cast<double>(prediction.ns), kHighestShare * sum + 1000);
}

TEST_F(OverlapModelTest, ABatchOutsideOfTheProfileIsTheSumOfItsParts) {
  ASSERT_TRUE(Connect(kA, kA, AddBatch(8, 900'000)).ok());
  const Prediction alone = Predict({Of(kA, 2, 0, 8)});
  EXPECT_FALSE(alone.trained);
  EXPECT_EQ(alone.ns, 900'000u);
  const Prediction pair = Predict({Of(kA, 2, 0, 8), Of(kB, 0, 0, 10)});
  EXPECT_FALSE(pair.trained);
  EXPECT_EQ(pair.ns, 900'000u + 420'000u);
  EXPECT_TRUE(Predict({Of(kA, 1, 0, 8), Of(kB, 0, 0, 10)}).trained) << "its other buckets are as they were";
  EXPECT_THAT(model_->notes(ServiceId(kA)),
              testing::ElementsAre("batch 8 of a was not profiled: above 4, so solo times are added up"));
  ASSERT_TRUE(Connect(kA, kA, AddBatch(8, 300'000)).ok());
  EXPECT_EQ(Predict({Of(kA, 2, 0, 8)}).ns, 410'000u) << "noise: a larger batch takes no less";
}

TEST_F(OverlapModelTest, AnotherStructureIsRefusedByNameAndAnUnknownOneIsNot) {
  const auto structure = [](std::string text) { return [=](auto* facts) { facts->structure = text; }; };
  EXPECT_TRUE(Connect(kA, kA, structure("1111222233334444ffff")).ok()) << "a predictor that does not know";
  PredictorFile file = file_;
  file.subject.models[kA].structure = "aaaabbbbccccddddeeee";
  model_ = Make(file);
  EXPECT_TRUE(Connect(kA, kA, structure("aaaabbbbccccddddeeee")).ok());
  EXPECT_TRUE(Connect(kA, kA, structure("")).ok()) << "a worker that does not know";
  EXPECT_EQ(Connect(kA, kA, structure("1111222233334444ffff")).message(),
            "it was trained on a with structure aaaabbbbccccdddd, the worker's has structure 1111222233334444: other "
            "operators, shapes or types");
  EXPECT_FALSE(Predict({Of(kA, 0, 0, 8)}).trained);
}

TEST_F(OverlapModelTest, SoloTimesAreCorrectedAloneAndInGroups) {
  SoloCorrection solo;
  model_->SetCorrection(&solo);
  const Prediction pair = Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)});
  EXPECT_EQ(Predict({Of(kA, 0, 0, 8)}).ns, 210'000u);
  EXPECT_EQ(model_->SoloNs(ServiceId(kA), 0), 210'000u);
  solo.Set(ServiceId(kA), 0, 10);
  EXPECT_EQ(Predict({Of(kA, 0, 0, 8)}).ns, 2'100'000u);
  EXPECT_EQ(model_->SoloNs(ServiceId(kA), 0), 210'000u);
  EXPECT_EQ(Predict({Of(kB, 0, 0, 10)}).ns, 420'000u);
  const Prediction longer = Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)});
  EXPECT_TRUE(longer.trained);
  EXPECT_GT(longer.ns, pair.ns);
  EXPECT_GE(longer.ns, 1'680'000u) << "0.8 of the longest range";
  // As if the profile had said so.
  PredictorFile file = file_;
  for (double& us : file.subject.models[kA].buckets[0].us) us *= 10;
  model_ = Make(file);
  for (const uint32_t service : {kA, kB}) {
    const ModelProfile& profile = file.subject.models[service];
    ASSERT_TRUE(model_->Connect(ServiceId(service), profile.name, test::FactsOf(file.subject, profile)).ok());
  }
  EXPECT_NEAR(static_cast<double>(longer.ns), static_cast<double>(Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)}).ns),
              1000);
  // Where it is not connected, the worker's own time is.
  model_->SetCorrection(&solo);
  EXPECT_FALSE(Connect(kA, kA, [](auto* facts) { facts->device = "x", facts->buckets[0].solo_ns = 300'000; }).ok());
  EXPECT_EQ(Predict({Of(kA, 0, 0, 8)}).ns, 3'000'000u);
  EXPECT_EQ(model_->SoloNs(ServiceId(kA), 0), 300'000u);
}

TEST_F(OverlapModelTest, ARefusedServiceIsPredictedByWhatItSaysItself) {
  EXPECT_FALSE(Connect(kA, kA, [](auto* facts) { facts->device = "x", facts->buckets[0].solo_ns = 999'000; }).ok());
  const Prediction prediction = Predict({Of(kA, 0, 0, 8)});
  EXPECT_FALSE(prediction.trained);
  EXPECT_EQ(prediction.ns, 999'000u);
}

TEST_F(OverlapModelTest, ANetworkLedAstrayStaysWithinBounds) {
  PredictorFile wild = file_;
  for (const size_t layer : {2, 1, 0}) {  // from the last on: plus and minus infinity, then what is no number
    std::vector<float>& weights = wild.layers[layer].weights;
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = (i + i / kHiddenWidth) % 2 == 0 ? 3e38f : -3e38f;
    model_ = Make(wild);
    for (const uint32_t service : {kA, kB}) ASSERT_TRUE(Connect(service, service).ok());
    const Prediction prediction = Predict({Of(kA, 0, 0, 8), Of(kB, 0, 0, 10)});
    EXPECT_GE(prediction.ns, 336'000u);  // 0.8 of 420 us
    EXPECT_LE(prediction.ns, 945'000u);  // 1.5 of 630 us
  }
}

TEST_F(OverlapModelTest, CreateRefusesANetworkOfAnotherWidth) {
  PredictorFile file = file_;
  file.subject.models.pop_back();
  EXPECT_FALSE(OverlapModel::Create(file));
  file = file_;
  file.layers.clear();
  EXPECT_FALSE(OverlapModel::Create(file));
}

TEST(OverlapModelFull, GroupsOfSixteenWithoutAllocation) {
  ProfileData subject = test::SmallProfile();
  subject.models.clear();
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < kMaxGroup; ++i) {
    subject.models.push_back({"m" + std::to_string(i), {{1, 0, 4, {0, 2, 4}, {1, 50.0 + i, 100.0 + i}}}});
    all.push_back(i);
  }
  const PredictorFile file = test::PredictorOf(subject, {all, {0, 1}});
  const auto model = OverlapModel::Create(file);
  ASSERT_TRUE(model) << model.error().message();
  std::vector<OperatorRange> group;
  for (uint32_t i = 0; i < kMaxGroup; ++i) {
    ASSERT_TRUE(
        (*model)->Connect(ServiceId(i), subject.models[i].name, test::FactsOf(subject, subject.models[i])).ok());
    group.push_back(Of(i, 0, i % 2 * 2, 4));
  }
  const std::array<uint32_t, 2> lasts = {3, 4};
  std::array<Prediction, 2> ends, plain;
  const std::span<const OperatorRange> others = std::span(group).first(kMaxGroup - 1);

  const uint64_t before = test::AllocationCount();
  const Prediction whole = (*model)->Predict(group);
  const Prediction pair = (*model)->Predict(std::span(group).first(2));
  const Prediction untrained = (*model)->Predict(std::span(group).first(3));
  (*model)->PredictEnds(others, group.back(), lasts, ends);
  const std::array<OperatorRange, 2> choices = {Of(kMaxGroup - 1, 0, 2, 3), Of(kMaxGroup - 1, 0, 2, 4)};
  (*model)->LatencyModel::PredictChoices(others, choices, plain);
  const uint64_t after = test::AllocationCount();

  EXPECT_EQ(after, before);
  EXPECT_GT(before, 0u) << "the counter counts";
  EXPECT_TRUE(whole.trained);
  EXPECT_TRUE(pair.trained);
  EXPECT_FALSE(untrained.trained);
  EXPECT_GT(whole.ns, 0u);
  EXPECT_EQ(ends[1].ns, whole.ns);
  EXPECT_EQ(plain[1].ns, whole.ns);
  EXPECT_EQ(plain[0].ns, ends[0].ns);
}

}  // namespace
}  // namespace abacus
