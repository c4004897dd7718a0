#include "predictor/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "tests/predictor/train/synthetic_profile.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Measured: network 1.35 %, linear regression 3.1 %, SVM 1.6 %.
constexpr double kMapeBound = 0.018;

std::string BytesOf(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : folder_(fs::path(::testing::TempDir()) / ("abacus_trainer_" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    options_.profiles = {folder_ / "profile.jsonl"};
    options_.out = folder_ / "out.predictor";
    options_.dataset.folds = 2;
    options_.recipe.teachers = 2;
    options_.recipe.teacher_steps = 600;
    options_.recipe.made_up = 10'000;
    options_.recipe.epochs = 10;
    options_.threads = 2;
  }
  ~TrainerTest() override { fs::remove_all(folder_); }

  void SetUp() override { WriteProfile(MakeSyntheticProfile({}), options_.profiles[0]); }

  TrainOptions options_;
  const fs::path folder_;
  std::atomic<bool> stop_{false};
};

TEST_F(TrainerTest, LearnsTheLaw) {
  SyntheticOptions law;
  law.models = 3;
  law.groups = {20, 2000, 500};
  WriteProfile(MakeSyntheticProfile(law), options_.profiles[0]);
  options_.recipe.teacher_steps = 1000;
  options_.recipe.made_up = 20'000;
  options_.recipe.epochs = 30;
  options_.dataset.folds = 0;
  options_.report = folder_ / "report";
  const auto outcome = Train(options_, stop_);
  ASSERT_TRUE(outcome) << outcome.error().message();
  const ErrorFigures& overall = outcome->evaluation.overall;
  EXPECT_LT(overall.network, kMapeBound);
  EXPECT_LT(overall.network, 0.55 * overall.linear);
  EXPECT_LT(overall.network, overall.svm);

  const auto predictor = LoadPredictor(options_.out);
  ASSERT_TRUE(predictor) << predictor.error().message();
  EXPECT_EQ(predictor->mape, overall.network);
  EXPECT_EQ(predictor->subject.device, "synthetic");
  EXPECT_TRUE(predictor->subject.groups.empty());
  EXPECT_EQ(predictor->trained.size(), 3u + 1u);
  EXPECT_EQ(predictor->residuals.size(), 1001u);
  EXPECT_GT(predictor->samples, 1900u);
  for (const TrainedSet& set : predictor->trained) EXPECT_GT(set.mape, 0);
  for (const char* name : {"error_by_set.csv", "predictions.csv", "folds.csv", "summary.json"}) {
    EXPECT_GT(fs::file_size(options_.report / name), 30u) << name;
  }
  EXPECT_FALSE(fs::exists(options_.out.string() + ".work"));
}

TEST_F(TrainerTest, SavedNetworkMustSayWhatLibTorchSaid) {
  const std::string names[] = {"profile"};
  const auto dataset = MakeDataset({MakeSyntheticProfile({})}, names, options_.dataset);
  ASSERT_TRUE(dataset);
  const Split split = HoldoutSplit(*dataset, options_.dataset);
  const auto fit = FitNetwork(*dataset, split, options_.recipe, stop_,
                              [](double, const std::string&, uint32_t, uint32_t, double) {});
  ASSERT_TRUE(fit);
  PredictorFile predictor;
  predictor.subject = dataset->subject;
  predictor.layers = fit->layers;
  for (const ModelSet& set : dataset->sets) predictor.trained.push_back({set.models, set.samples, 0.01});
  EXPECT_EQ(CheckPredictor(predictor, *dataset, split.test, *fit).ToString(), "OK");

  for (float& weight : predictor.layers[1].weights) weight *= 1.001f;
  EXPECT_THAT(CheckPredictor(predictor, *dataset, split.test, *fit).message(), HasSubstr("in LibTorch"));
}

TEST_F(TrainerTest, ThreadsDoNotChangeTheFileButTheSeedDoes) {
  options_.dataset.folds = 0;
  ASSERT_TRUE(Train(options_, stop_));
  const std::string first = BytesOf(options_.out);
  ASSERT_GT(first.size(), 1000u);
  options_.threads = 1;
  ASSERT_TRUE(Train(options_, stop_));
  EXPECT_TRUE(BytesOf(options_.out) == first);
  options_.recipe.seed = 2;
  ASSERT_TRUE(Train(options_, stop_));
  EXPECT_FALSE(BytesOf(options_.out) == first);
}

TEST_F(TrainerTest, InterruptedRunGoesOnToTheSameFile) {
  ASSERT_TRUE(Train(options_, stop_));
  const std::string expected = BytesOf(options_.out);
  fs::remove(options_.out);

  options_.threads = 1;
  options_.on_stage_end = [this](const std::string& stage) { stop_ = stage == "linear"; };
  const auto stopped = Train(options_, stop_);
  ASSERT_TRUE(stopped) << stopped.error().message();
  EXPECT_TRUE(stopped->interrupted);
  EXPECT_FALSE(fs::exists(options_.out));

  stop_ = false;
  std::vector<std::string> done;
  options_.on_stage_end = [&done](const std::string& stage) { done.push_back(stage); };
  const auto resumed = Train(options_, stop_);
  ASSERT_TRUE(resumed) << resumed.error().message();
  EXPECT_FALSE(resumed->interrupted);
  EXPECT_EQ(resumed->evaluation.folds.size(), 2u);
  EXPECT_NEAR(resumed->evaluation.folds_mean, resumed->evaluation.overall.network, 0.01);
  EXPECT_THAT(done, ::testing::ElementsAre("fold-1", "fold-2"));
  EXPECT_TRUE(BytesOf(options_.out) == expected);
}

TEST_F(TrainerTest, OtherOptionsDoNotGoOnWithWhatIsThere) {
  options_.dataset.folds = 0;
  options_.threads = 1;
  const auto stop_after_network = [this](const std::string&) { stop_ = true; };
  options_.on_stage_end = stop_after_network;
  ASSERT_TRUE(Train(options_, stop_)->interrupted);

  stop_ = false;
  options_.recipe.epochs = 9;
  std::string first_done;
  options_.on_stage_end = [&](const std::string& stage) {
    if (first_done.empty()) first_done = stage;
    stop_ = true;
  };
  ASSERT_TRUE(Train(options_, stop_)->interrupted);
  EXPECT_EQ(first_done, "network");

  // The same options, but told to start over.
  stop_ = false;
  options_.fresh = true;
  first_done.clear();
  ASSERT_TRUE(Train(options_, stop_)->interrupted);
  EXPECT_EQ(first_done, "network");
}

TEST_F(TrainerTest, BadGroupsAndATruncatedLineAreLeftOut) {
  std::string text = BytesOf(options_.profiles[0]);
  const size_t time = text.rfind("\"us\":");
  text.insert(time + 5, "null,\"was\":");  // how JSON writes NaN
  text += R"({"group":{"index":5,"ran)";
  std::ofstream(options_.profiles[0], std::ios::binary) << text;
  const auto profile = ReadProfile(options_.profiles[0]);
  ASSERT_TRUE(profile) << profile.error().message();
  EXPECT_EQ(profile->groups.size(), 899u);
  const std::string names[] = {"profile"};
  const auto dataset = MakeDataset({*profile}, names, options_.dataset);
  ASSERT_TRUE(dataset) << dataset.error().message();
  EXPECT_EQ(dataset->samples.size(), 899u);
  EXPECT_EQ(dataset->warnings.size(), 2u);
}

TEST_F(TrainerTest, OutputThatCannotBeWrittenIsFoundAtOnce) {
  std::ofstream(folder_ / "file") << "not a folder";
  options_.out = folder_ / "file" / "out.predictor";
  const auto outcome = Train(options_, stop_);
  ASSERT_FALSE(outcome);
  EXPECT_THAT(outcome.error().message(), HasSubstr("out.predictor.work: cannot be made"));
}

}  // namespace
}  // namespace abacus
