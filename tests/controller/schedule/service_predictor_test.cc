#include "controller/schedule/service_predictor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "shm/region.h"
#include "tests/predictor/small_predictor.h"
#include "tests/support/specs.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr uint64_t kSoloNs = 800'000;

class ServicePredictorTest : public testing::Test {
 protected:
  ServicePredictorTest()
      : directory_(fs::temp_directory_path() / ("service-predictor-" + std::to_string(getpid()))),
        path_(directory_ / "x.predictor"),
        specs_{test::ImageSpec(), test::TextSpec()} {
    fs::create_directories(directory_);
    ProfileData subject;
    subject.device = "Test GPU";
    subject.libraries = "cuda";
    for (const ModelSpec& spec : specs_) {
      ModelProfile model{spec.name, {}};
      for (size_t b = 0; b < spec.bucket_count(); ++b) {
        model.buckets.push_back({spec.bucket(b).batch, spec.bucket(b).sequence, 8, {0, 4, 8}, {10, 405, 800}});
      }
      subject.models.push_back(std::move(model));
    }
    file_ = test::PredictorOf(subject, {{0, 1}});
  }
  ~ServicePredictorTest() override { fs::remove_all(directory_); }

  void WorkerUp(ServicePredictor* predictor, uint32_t service, const std::string& device = "Test GPU",
                const std::string& structure = "", uint64_t solo_ns = kSoloNs) {
    const std::vector<WorkerRanges> ranges(specs_[service].bucket_count(), {8, solo_ns, {0, 4, 8}});
    predictor->WorkerUp(ServiceId(service), "svc-" + specs_[service].name, specs_[service],
                        {device, "cuda", structure, ranges});
  }
  static std::string Description(const ServicePredictor& predictor) {
    PredictorStats stats;
    predictor.Describe(&stats);
    EXPECT_EQ(stats.trained.load(), predictor.trained() ? 1u : 0u);
    return LoadText(stats.description);
  }
  void ExpectAdditive(ServicePredictor* predictor) {
    EXPECT_FALSE(predictor->trained());
    EXPECT_EQ(predictor->model().name(), "additive");
    EXPECT_EQ(predictor->StartMargin(), 0.1);
    for (const uint32_t service : {0, 1}) WorkerUp(predictor, service);
    const Prediction prediction = predictor->model().Predict(kPair);
    EXPECT_FALSE(prediction.trained);
    EXPECT_EQ(prediction.ns, 2 * kSoloNs);
  }

  const fs::path directory_;
  const fs::path path_;
  const std::array<ModelSpec, 2> specs_;
  PredictorFile file_;
  const std::vector<OperatorRange> kPair = {{ServiceId(0), 2, 0, 8}, {ServiceId(1), 3, 0, 8}};
};

TEST_F(ServicePredictorTest, WithoutAFileEverythingIsAdditive) {
  ServicePredictor predictor;
  EXPECT_EQ(Description(predictor), "additive: no predictor file is configured");
  ExpectAdditive(&predictor);
  ServicePredictor empty = ServicePredictor::Load("");
  EXPECT_EQ(Description(empty), "additive: no predictor file is configured");
}

TEST_F(ServicePredictorTest, AMissingOrDamagedFileSaysWhy) {
  ServicePredictor missing = ServicePredictor::Load(path_);
  EXPECT_THAT(Description(missing), AllOf(StartsWith("additive: "), HasSubstr("x.predictor: cannot be read")));
  ExpectAdditive(&missing);

  std::string bytes = EncodePredictor(file_);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::ofstream(path_, std::ios::binary) << bytes;
  ServicePredictor damaged = ServicePredictor::Load(path_);
  EXPECT_THAT(Description(damaged), AllOf(StartsWith("additive: "), HasSubstr("x.predictor: damaged")));
  ExpectAdditive(&damaged);

  std::ofstream(path_, std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  EXPECT_THAT(Description(ServicePredictor::Load(path_)), HasSubstr("x.predictor: cut off"));
}

TEST_F(ServicePredictorTest, AGoodFilePredictsOverlap) {
  ASSERT_TRUE(SavePredictor(file_, path_).ok());
  ServicePredictor predictor = ServicePredictor::Load(path_);
  EXPECT_TRUE(predictor.trained());
  EXPECT_EQ(predictor.model().name(), "overlap");
  EXPECT_EQ(Description(predictor), "overlap: x.predictor, trained on 300 groups on Test GPU, held-out error 4.56 %");
  EXPECT_FALSE(predictor.model().Predict(kPair).trained) << "no worker is up yet";
  WorkerUp(&predictor, 0);
  EXPECT_FALSE(predictor.model().Predict(kPair).trained);
  WorkerUp(&predictor, 1);
  const Prediction prediction = predictor.model().Predict(kPair);
  EXPECT_TRUE(prediction.trained);
  EXPECT_GT(prediction.ns, 0u);
  EXPECT_DOUBLE_EQ(predictor.StartMargin(), file_.residuals[99]) << "99.5 % of 0 to 100, rounded down";
}

TEST_F(ServicePredictorTest, AServiceThatDoesNotFitIsNamed) {
  ASSERT_TRUE(SavePredictor(file_, path_).ok());
  ServicePredictor predictor = ServicePredictor::Load(path_);
  WorkerUp(&predictor, 0);
  WorkerUp(&predictor, 1, "Other GPU");
  EXPECT_THAT(Description(predictor), EndsWith("; additive for svc-text"));
  const Prediction prediction = predictor.model().Predict(kPair);
  EXPECT_FALSE(prediction.trained);
  EXPECT_EQ(prediction.ns, 2 * kSoloNs);
  WorkerUp(&predictor, 1, "Other GPU");  // restarted: still named once
  EXPECT_THAT(Description(predictor), EndsWith("; additive for svc-text"));
  WorkerUp(&predictor, 0, "Other GPU");
  EXPECT_THAT(Description(predictor), EndsWith("; additive for svc-text svc-image"));
  for (const uint32_t service : {0, 1}) WorkerUp(&predictor, service);
  EXPECT_THAT(Description(predictor), Not(HasSubstr("additive")));
  EXPECT_TRUE(predictor.model().Predict(kPair).trained);
}

TEST_F(ServicePredictorTest, RetrainedWeightsKeepTheirPredictorAndAnotherStructureDoesNot) {
  for (ModelProfile& model : file_.subject.models) model.structure = "structure of " + model.name;
  ASSERT_TRUE(SavePredictor(file_, path_).ok());
  ServicePredictor predictor = ServicePredictor::Load(path_);
  WorkerUp(&predictor, 0, "Test GPU", "structure of image");
  WorkerUp(&predictor, 1, "Test GPU", "structure of text");
  EXPECT_TRUE(predictor.model().Predict(kPair).trained);
  WorkerUp(&predictor, 1, "Test GPU", "");
  EXPECT_TRUE(predictor.model().Predict(kPair).trained) << "a worker that does not say";
  WorkerUp(&predictor, 1, "Test GPU", "another structure");
  EXPECT_FALSE(predictor.model().Predict(kPair).trained);
  EXPECT_THAT(Description(predictor), EndsWith("; additive for svc-text"));
}

TEST_F(ServicePredictorTest, BucketsThatWereNotProfiledAreNamedAndPredictedBetweenTheirNeighbours) {
  std::vector<BucketProfile>& profiled = file_.subject.models[0].buckets;
  ASSERT_EQ(profiled.size(), 3u);  // batch 1, 2 and 4
  profiled.erase(profiled.begin() + 1);
  profiled[1].us = {10, 805, 1600};
  ASSERT_TRUE(SavePredictor(file_, path_).ok());
  ServicePredictor predictor = ServicePredictor::Load(path_);
  const std::vector<WorkerRanges> ranges = {
      {8, 800'000, {0, 4, 8}}, {8, 1'200'000, {0, 4, 8}}, {8, 1'600'000, {0, 4, 8}}};
  for (int times = 0; times < 2; ++times) {  // restarted: still named once
    predictor.WorkerUp(ServiceId(0), "svc-image", specs_[0], {"Test GPU", "cuda", "", ranges});
    EXPECT_THAT(Description(predictor), EndsWith("%; batch 2 of image was not profiled: between 1 and 4"));
  }
  WorkerUp(&predictor, 1);
  const auto pair = [&](uint32_t bucket) {
    const Prediction prediction =
        predictor.model().Predict(std::vector<OperatorRange>{{ServiceId(0), bucket, 0, 8}, {ServiceId(1), 3, 0, 8}});
    EXPECT_TRUE(prediction.trained);
    return prediction.ns;
  };
  EXPECT_NEAR(static_cast<double>(pair(1)), 0.5 * static_cast<double>(pair(0) + pair(2)), 1000);
  EXPECT_NEAR(static_cast<double>(predictor.model().PredictNs({ServiceId(0), 1, 0, 8})), 1.2e6, 1000);
  profiled.pop_back();  // the largest was never profiled
  ServicePredictor outside = ServicePredictor::Use(file_);
  outside.WorkerUp(ServiceId(0), "svc-image", specs_[0], {"Test GPU", "cuda", "", ranges});
  EXPECT_THAT(Description(outside), AllOf(HasSubstr("batch 2 of image was not profiled: above 1"),
                                          HasSubstr("batch 4 of image was not profiled: above 1")));
}

TEST_F(ServicePredictorTest, WhatRoundsTaughtStaysWhileTheTimesAreTheSame) {
  const OperatorRange whole = {ServiceId(0), 2, 0, 8};
  const auto teach = [&](ServicePredictor* predictor) {
    const SoloCorrection::Part part = {whole, predictor->model().PredictNs(whole), 8 * kSoloNs};
    EXPECT_TRUE(predictor->solo()->Record({&part, 1}, {}));
    EXPECT_NEAR(static_cast<double>(predictor->model().PredictNs(whole)), 8.0 * kSoloNs, 1000);
  };
  ServicePredictor additive;
  WorkerUp(&additive, 0);
  teach(&additive);
  WorkerUp(&additive, 0);
  EXPECT_NEAR(static_cast<double>(additive.model().PredictNs(whole)), 8.0 * kSoloNs, 1000);
  WorkerUp(&additive, 0, "Test GPU", "", 2 * kSoloNs);
  EXPECT_EQ(additive.model().PredictNs(whole), 2 * kSoloNs) << "measured again";

  ServicePredictor trained = ServicePredictor::Use(file_);
  WorkerUp(&trained, 0);
  teach(&trained);
  WorkerUp(&trained, 0, "Test GPU", "", 2 * kSoloNs);
  EXPECT_NEAR(static_cast<double>(trained.model().PredictNs(whole)), 8.0 * kSoloNs, 1000)
      << "the times are the profile's";
}

TEST_F(ServicePredictorTest, TheStartMarginNeedsResiduals) {
  file_.residuals = {};
  ASSERT_TRUE(SavePredictor(file_, path_).ok());
  EXPECT_EQ(ServicePredictor::Load(path_).StartMargin(), 0.1);
  file_.residuals = {0.07};
  ASSERT_TRUE(SavePredictor(file_, path_).ok());
  EXPECT_EQ(ServicePredictor::Load(path_).StartMargin(), 0.07);
}

}  // namespace
}  // namespace abacus
