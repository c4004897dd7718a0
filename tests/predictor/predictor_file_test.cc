#include "predictor/predictor_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/predictor/small_predictor.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

// The message of a refusal; "accepted" when there is none.
std::string Refusal(std::string_view bytes) {
  const auto file = DecodePredictor(bytes, "file.predictor");
  if (file) return "accepted";
  EXPECT_EQ(file.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(file.error().message(), StartsWith("file.predictor: "));
  return file.error().message();
}

std::string WithFirstLine(const std::string& body) {
  boost::crc_32_type crc;
  crc.process_bytes(body.data(), body.size());
  char line[64];
  std::snprintf(line, sizeof(line), "abacus-predictor 1 %zu %08x\n", body.size(), crc.checksum());
  return line + body;
}

// The small predictor with a changed body whose checksum is right.
template <class Change>
std::string Changed(const Change& change) {
  const std::string bytes = EncodePredictor(test::SmallPredictor());
  json body = json::parse(bytes.substr(bytes.find('\n') + 1));
  change(body);
  return WithFirstLine(body.dump());
}

// Short, for tests that try out every byte.
std::string TinyFile() {
  PredictorFile file = test::PredictorOf(test::SmallProfile(), {{0, 1}}, 1);
  for (MlpLayer& layer : file.layers) std::fill(layer.weights.begin(), layer.weights.end(), 0.5f);
  return EncodePredictor(file);
}

class PredictorFileTest : public testing::Test {
 protected:
  PredictorFileTest() : directory_(fs::temp_directory_path() / ("predictor-" + std::to_string(getpid()))) {
    fs::create_directories(directory_);
  }
  ~PredictorFileTest() override { fs::remove_all(directory_); }
  const fs::path directory_;
};

TEST_F(PredictorFileTest, ComesBackExactly) {
  const PredictorFile file = test::SmallPredictor();
  const auto again = DecodePredictor(EncodePredictor(file), "x");
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->subject.device, file.subject.device);
  EXPECT_EQ(again->subject.driver, file.subject.driver);
  EXPECT_EQ(again->subject.libraries, file.subject.libraries);
  EXPECT_EQ(again->subject.seed, file.subject.seed);
  EXPECT_TRUE(SameSubject(again->subject, file.subject).ok());
  for (size_t m = 0; m < file.subject.models.size(); ++m) {
    for (size_t b = 0; b < file.subject.models[m].buckets.size(); ++b) {
      EXPECT_EQ(again->subject.models[m].buckets[b].operators_at, file.subject.models[m].buckets[b].operators_at);
      EXPECT_EQ(again->subject.models[m].buckets[b].us, file.subject.models[m].buckets[b].us);
    }
  }
  ASSERT_EQ(again->layers.size(), file.layers.size());
  for (size_t i = 0; i < file.layers.size(); ++i) {
    EXPECT_EQ(again->layers[i].inputs, file.layers[i].inputs);
    EXPECT_EQ(again->layers[i].outputs, file.layers[i].outputs);
    EXPECT_EQ(again->layers[i].weights, file.layers[i].weights);
    EXPECT_EQ(again->layers[i].bias, file.layers[i].bias);
  }
  ASSERT_EQ(again->trained.size(), 3u);
  EXPECT_EQ(again->trained[2].models, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(again->trained[2].samples, 100u);
  EXPECT_EQ(again->trained[2].mape, 0.0123);
  EXPECT_EQ(again->samples, file.samples);
  EXPECT_EQ(again->mape, file.mape);
  EXPECT_EQ(again->residuals, file.residuals);
  EXPECT_EQ(EncodePredictor(*again), EncodePredictor(file));
}

TEST_F(PredictorFileTest, EveryFlippedBitIsRefused) {
  std::string bytes = TinyFile();
  ASSERT_EQ(Refusal(bytes), "accepted");
  const size_t head = bytes.find('\n') + 200;  // the first line and some of the body; then here and there
  const size_t step = (bytes.size() - head) / 200;
  size_t flips = 0;
  for (size_t i = 0; i < bytes.size(); i += i < head ? 1 : step) {
    for (int bit = 0; bit < 8; ++bit, ++flips) {
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      EXPECT_NE(Refusal(bytes), "accepted") << "byte " << i << " bit " << bit;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
    }
  }
  EXPECT_GT(flips, 3000u);
}

TEST_F(PredictorFileTest, EveryTruncationIsRefused) {
  const std::string bytes = TinyFile();
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_NE(Refusal(std::string_view(bytes).substr(0, size)), "accepted") << size << " bytes";
  }
  EXPECT_THAT(Refusal(std::string_view(bytes).substr(0, bytes.size() - 1)), HasSubstr("cut off"));
  EXPECT_THAT(Refusal(""), HasSubstr("not a predictor"));
}

TEST_F(PredictorFileTest, TheFirstLineMustBeRight) {
  const std::string bytes = TinyFile(), rest = bytes.substr(std::string("abacus-predictor 1").size());
  EXPECT_THAT(Refusal("abacus-predictor 2" + rest), AllOf(HasSubstr("has schema 2"), HasSubstr("train again")));
  EXPECT_THAT(Refusal("abacus-predictor" + rest.substr(rest.find(' ', 1))), testing::Not("accepted"));
  EXPECT_THAT(Refusal("abacus-predictor x" + rest), HasSubstr("first line is damaged"));
  EXPECT_THAT(Refusal("abacus-predictor01" + rest), HasSubstr("not a predictor"));
  EXPECT_THAT(Refusal("{\"abacus_profile\":1}\n"), HasSubstr("not a predictor"));
  EXPECT_THAT(Refusal(bytes + "x"), HasSubstr("damaged"));
  EXPECT_THAT(Refusal(bytes + "\n"), HasSubstr("damaged"));
}

TEST_F(PredictorFileTest, RefusesABodyThatIsNotAsItShouldBe) {
  EXPECT_EQ(Refusal(Changed([](json&) {})), "accepted");
  for (const char* body : {"", "{", "[]", "null", "7", "\"x\"", "{}"}) {
    EXPECT_THAT(Refusal(WithFirstLine(body)), HasSubstr("body")) << body;
  }
  for (const char* key : {"features", "samples", "mape", "residuals", "layers", "trained", "subject"}) {
    EXPECT_THAT(Refusal(Changed([&](json& body) { body.erase(key); })), HasSubstr(key));
    EXPECT_NE(Refusal(Changed([&](json& body) { body[key] = "x"; })), "accepted") << key;
    EXPECT_NE(Refusal(Changed([&](json& body) { body[key] = nullptr; })), "accepted") << key;
  }
  EXPECT_THAT(Refusal(Changed([](json& body) { body["features"] = kFeatureSchema + 1; })),
              AllOf(HasSubstr("feature columns of version 2"), HasSubstr("train again")));
  EXPECT_THAT(Refusal(Changed([](json& body) { body["residuals"] = {0.1, -0.1}; })), HasSubstr("residuals"));
  EXPECT_THAT(Refusal(Changed([](json& body) { body["residuals"] = {0.1, nullptr}; })), HasSubstr("residuals"));
}

TEST_F(PredictorFileTest, RefusesANetworkThatDoesNotFit) {
  const auto refusal = [](const std::function<void(json&)>& change) {
    return Refusal(Changed([&](json& body) { change(body["layers"]); }));
  };
  EXPECT_THAT(refusal([](json& layers) { layers.erase(0); }), HasSubstr("columns"));
  EXPECT_THAT(refusal([](json& layers) { layers.clear(); }), HasSubstr("layers"));
  EXPECT_THAT(refusal([](json& layers) { layers[0]["inputs"] = 46; }), HasSubstr("layer 0"));
  EXPECT_THAT(refusal([](json& layers) { layers[1]["weights"].erase(0); }), HasSubstr("layer 1"));
  EXPECT_THAT(refusal([](json& layers) { layers[1]["weights"][5] = nullptr; }), HasSubstr("layer 1"));
  EXPECT_THAT(refusal([](json& layers) { layers[1]["weights"][5] = 1e300; }), HasSubstr("layer 1"));
  EXPECT_THAT(refusal([](json& layers) { layers[2]["bias"] = {0, 0}; }), HasSubstr("layer 2"));
  EXPECT_THAT(refusal([](json& layers) { layers[2] = 3; }), HasSubstr("layer 2"));
  EXPECT_THAT(Refusal(Changed([](json& body) {
                body["subject"]["models"].erase(2);
                body["trained"].clear();
              })),
              AllOf(HasSubstr("takes 47 columns"), HasSubstr("2 models have 33")));
}

TEST_F(PredictorFileTest, RefusesTrainedSetsOfModelsThatDoNotExist) {
  const auto refusal = [](const std::vector<uint32_t>& models) {
    return Refusal(Changed([&](json& body) { body["trained"][1]["models"] = models; }));
  };
  EXPECT_EQ(refusal({1, 2}), "accepted");
  for (const std::vector<uint32_t>& models : std::vector<std::vector<uint32_t>>{{}, {0, 3}, {64}, {1, 0}, {1, 1}}) {
    EXPECT_THAT(refusal(models), HasSubstr("trained set 1: \"models\""));
  }
}

TEST_F(PredictorFileTest, RefusesSubjectsThatHoldWrongTimes) {
  const auto refusal = [](const std::function<void(json&)>& change) {
    return Refusal(Changed([&](json& body) { change(body["subject"]["models"][0]["buckets"][0]); }));
  };
  EXPECT_THAT(refusal([](json& bucket) { bucket.erase("solo"); }), HasSubstr("solo times of a are missing"));
  EXPECT_THAT(refusal([](json& bucket) { bucket["operators"] = 9; }), HasSubstr("model 0, bucket 0, solo"));
  EXPECT_THAT(refusal([](json& bucket) { bucket["batch"] = 0; }), HasSubstr("bucket 0"));
  for (const std::vector<double>& us :
       {std::vector<double>{10, 60, 50, 210}, {-1, 60, 110, 210}, {0, 0, 0, 0}, {10, 60, 110}, {0, 1, 2, 1e300}}) {
    EXPECT_THAT(refusal([&](json& bucket) { bucket["solo"]["us"] = us; }), HasSubstr("\"us\""));
  }
  for (const std::vector<uint32_t>& at : {std::vector<uint32_t>{1, 2, 4, 8}, {0, 2, 2, 8}, {0, 2, 4, 7}}) {
    EXPECT_THAT(refusal([&](json& bucket) { bucket["solo"]["operators"] = at; }), HasSubstr("\"operators\""));
  }
}

TEST_F(PredictorFileTest, StructuresAreKeptAndFilesWithoutThemAreAsGood) {
  PredictorFile file = test::SmallPredictor();
  file.subject.models[1].structure = std::string(64, 'a');
  const std::string bytes = EncodePredictor(file);
  const auto again = DecodePredictor(bytes, "x");
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->subject.models[1].structure, std::string(64, 'a'));
  EXPECT_EQ(again->subject.models[0].structure, "") << "unknown";
  EXPECT_EQ(EncodePredictor(test::SmallPredictor()).find("structure"), std::string::npos) << "as before there were any";
  EXPECT_THAT(Refusal(Changed([](json& body) { body["subject"]["models"][0]["structure"] = 5; })),
              HasSubstr("\"structure\" must be a short text"));
}

TEST_F(PredictorFileTest, TextThatIsNotUtf8IsReplaced) {
  PredictorFile file = test::SmallPredictor();
  file.subject.device = "GPU \xff";
  const auto again = DecodePredictor(EncodePredictor(file), "x");
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->subject.device, "GPU \uFFFD");
}

TEST_F(PredictorFileTest, SavesAndLoadsThroughAFile) {
  const fs::path path = directory_ / "new" / "x.predictor";
  const PredictorFile file = test::SmallPredictor();
  for (int i = 0; i < 2; ++i) {  // the second replaces the first
    ASSERT_TRUE(SavePredictor(file, path).ok());
    const auto loaded = LoadPredictor(path);
    ASSERT_TRUE(loaded) << loaded.error().message();
    EXPECT_EQ(EncodePredictor(*loaded), EncodePredictor(file));
    EXPECT_EQ(std::distance(fs::directory_iterator(path.parent_path()), {}), 1) << "nothing else is left there";
  }
}

TEST_F(PredictorFileTest, SaysWhichFileCannotBeReadOrWritten) {
  const auto missing = LoadPredictor(directory_ / "none.predictor");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.error().message(),
              AllOf(HasSubstr("none.predictor"), HasSubstr("No such file"), HasSubstr("mps.sh train")));
  EXPECT_FALSE(LoadPredictor(directory_)) << "a folder";

  fs::create_directories(directory_ / "folder");
  const Status onto_folder = SavePredictor(test::SmallPredictor(), directory_ / "folder");
  EXPECT_THAT(onto_folder.message(), HasSubstr("folder: cannot be written"));
  EXPECT_FALSE(fs::exists(directory_ / "folder.new"));
  std::ofstream(directory_ / "file") << "x";
  const Status below_file = SavePredictor(test::SmallPredictor(), directory_ / "file" / "x.predictor");
  EXPECT_THAT(below_file.message(), HasSubstr("x.predictor: cannot be written: Not a directory"));
}

}  // namespace
}  // namespace abacus
