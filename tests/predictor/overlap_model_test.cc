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

TEST_F(OverlapModelTest, PredictingEndsIsPredictingEach) {
  const std::vector<uint32_t> lasts = {1, 2, 3, 5, 8, 10, 99};
  const std::vector<std::vector<OperatorRange>> groups = {{},
                                                          {Of(kA, 0, 0, 8)},
                                                          {Of(kA, 1, 2, 8), Of(kC, 0, 0, 3)},
                                                          {Of(kC, 0, 0, 3)},  // {b, c} is not trained
                                                          {Of(kB, 0, 0, 3)},  // twice the same model
                                                          {Of(9, 0, 0, 3)}};  // not connected
  for (const std::vector<OperatorRange>& group : groups) {
    for (const OperatorRange range : {Of(kB, 0, 0, 0), Of(kB, 0, 2, 0), Of(kB, 7, 0, 0), Of(9, 0, 0, 0)}) {
      std::vector<Prediction> out(lasts.size());
      model_->PredictEnds(group, range, lasts, out);
      for (size_t i = 0; i < lasts.size(); ++i) {
        if (lasts[i] < range.first) continue;
        std::vector<OperatorRange> all = group;
        all.push_back({range.service, range.bucket, range.first, lasts[i]});
        const Prediction one = Predict(all);
        EXPECT_EQ(out[i].ns, one.ns);
        EXPECT_EQ(out[i].trained, one.trained);
        // The interface's own way of doing it.
        Prediction plain;
        model_->LatencyModel::PredictEnds(group, range, {&lasts[i], 1}, {&plain, 1});
        EXPECT_EQ(out[i].ns, plain.ns);
      }
    }
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
      {[](Facts* f) { f->buckets.pop_back(); }, "the buckets of a have changed"},
      {[](Facts* f) { f->buckets[1].batch = 5; }, "bucket 1 of a has changed its shape"},
      {[](Facts* f) { f->buckets[1].sequence = 5; }, "bucket 1 of a has changed its shape"},
      {[](Facts* f) { f->buckets[1].operators = 9; }, "bucket 1 of a had 8 operators and has 9 now"},
      {[](Facts* f) { f->buckets[0].solo_ns = 139'000; }, "bucket 0 of a took 210 us alone and takes 139 us now"},
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
  (*model)->LatencyModel::PredictEnds(others, group.back(), lasts, plain);
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
