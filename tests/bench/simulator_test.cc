#include "bench/simulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <regex>

#include "predictor/features.h"

namespace abacus::bench {
namespace {

// Two models of 1000 and 500 us; a group takes `share` of the sum of its parts.
PredictorFile MakeFile(double share, double error = 0) {
  PredictorFile file;
  file.subject.device = file.subject.libraries = "test";
  for (const double whole_us : {1000.0, 500.0}) {
    ModelProfile model;
    model.name = whole_us > 700 ? "long" : "short";
    BucketProfile bucket;
    bucket.operators = 64;
    for (uint32_t op = 0; op <= 64; ++op) {
      bucket.operators_at.push_back(op);
      bucket.us.push_back(whole_us * op / 64);
    }
    model.buckets.push_back(bucket);
    file.subject.models.push_back(model);
  }
  size_t inputs = FeatureCount(2);
  for (const size_t outputs : {kHiddenWidth, size_t{1}}) {
    MlpLayer layer{inputs, outputs, std::vector<float>(inputs * outputs), std::vector<float>(outputs)};
    if (outputs == 1) layer.bias[0] = static_cast<float>(std::log(share));
    file.layers.push_back(layer);
    inputs = outputs;
  }
  file.trained.push_back({{0, 1}, 100, 0});
  for (int i = 0; i <= 100; ++i) file.residuals.push_back(error * (i - 50) / 50);
  return file;
}

SimOptions Options(const std::string& policy) {
  SimOptions options;
  options.policy = policy;
  options.models = {0, 1};
  options.qos_ns = {10'000'000, 10'000'000};
  return options;
}

SimResult RunLoad(const PredictorFile& file, const SimOptions& options, double rate_per_s, double seconds = 4) {
  const auto result = Simulate(file, options, PoissonArrivals(rate_per_s, seconds, {{0}, {0}}, 3));
  EXPECT_TRUE(result.has_value());
  return result.value();
}

TEST(PoissonArrivals, AreOrderedAndOfTheAskedRate) {
  const auto arrivals = PoissonArrivals(1000, 20, {{0, 2}, {1}}, 1);
  EXPECT_NEAR(static_cast<double>(arrivals.size()), 20'000, 600);
  size_t first = 0, bucket_2 = 0;
  for (size_t i = 0; i < arrivals.size(); ++i) {
    ASSERT_TRUE(i == 0 || arrivals[i].at_ns >= arrivals[i - 1].at_ns);
    first += arrivals[i].service == 0;
    bucket_2 += arrivals[i].bucket == 2;
    ASSERT_TRUE(arrivals[i].service == 0 || arrivals[i].bucket == 1);
  }
  EXPECT_NEAR(static_cast<double>(first), 10'000, 400);
  EXPECT_NEAR(static_cast<double>(bucket_2), 5'000, 300);
}

TEST(Simulator, AnswersEveryQueryOnceUnderEveryPolicy) {
  const PredictorFile file = MakeFile(0.7, 0.05);
  for (const char* policy : {"fcfs", "sjf", "edf", "free", "abacus"}) {
    for (const double rate_per_s : {300.0, 3000.0}) {
      const SimResult result = RunLoad(file, Options(policy), rate_per_s, 1);
      EXPECT_EQ(result.in_time + result.late + result.refused, result.sent) << policy;
      EXPECT_EQ(result.latency_ns.size(), result.in_time + result.late) << policy;
      EXPECT_GT(result.in_time, 0u) << policy;
    }
  }
}

TEST(Simulator, TheSameSeedGivesTheSameRun) {
  const PredictorFile file = MakeFile(0.7, 0.05);
  for (const char* policy : {"free", "abacus"}) {
    const SimResult a = RunLoad(file, Options(policy), 1500), b = RunLoad(file, Options(policy), 1500);
    EXPECT_EQ(a.latency_ns, b.latency_ns) << policy;
    EXPECT_EQ(a.rounds, b.rounds);
    SimOptions other = Options(policy);
    other.seed = 2;
    EXPECT_NE(RunLoad(file, other, 1500).latency_ns, a.latency_ns) << policy;
  }
}

TEST(Simulator, AQueryAloneTakesItsSoloTime) {
  for (const char* policy : {"fcfs", "free", "abacus"}) {
    const SimResult result = RunLoad(MakeFile(0.7), Options(policy), 5, 20);
    ASSERT_GT(result.latency_ns.size(), 50u);
    EXPECT_NEAR(static_cast<double>(result.latency_ns.front()), 500e3, 1e3) << policy;
    EXPECT_NEAR(static_cast<double>(result.latency_ns[result.latency_ns.size() * 9 / 10]), 1000e3, 1e3) << policy;
  }
}

// 0.75 ms a query alone: one after another the GPU does 1333 a second, overlapped 1333 / 0.7.
TEST(Simulator, OverlapCarriesALoadThatOneAfterAnotherDoesNot) {
  const PredictorFile file = MakeFile(0.7, 0.02);
  for (const Packing packing : {Packing::kBalanced, Packing::kFurthest}) {
    SimOptions options = Options("abacus");
    options.packing = packing;
    const SimResult abacus = RunLoad(file, options, 1450);
    EXPECT_LT(abacus.violation(), 0.02);
    EXPECT_GT(abacus.rounds_several, 0u);
    EXPECT_LT(static_cast<double>(abacus.rounds_over), 0.015 * static_cast<double>(abacus.rounds));
  }
  EXPECT_GT(RunLoad(file, Options("edf"), 1450).violation(), 0.08);
}

TEST(Simulator, WithoutGainAbacusRunsOneAfterAnother) {
  const SimResult abacus = RunLoad(MakeFile(1.1), Options("abacus"), 1000);
  EXPECT_EQ(abacus.rounds_several, 0u);
  EXPECT_EQ(abacus.latency_ns, RunLoad(MakeFile(1.1), Options("edf"), 1000).latency_ns);
}

// What a service really takes is learned, however far it is from what was measured.
TEST(Simulator, WrongSoloTimesDoNotRefuseGoodQueriesForGood) {
  for (const double takes : {0.1, 8.0}) {
    SimOptions options = Options("abacus");
    options.takes = {takes, 1};
    // The long model is said to take 1 ms; at a tenth of that its queries would all be refused.
    options.qos_ns = {takes < 1 ? 500'000u : 30'000'000u, 30'000'000u};
    const SimResult result = RunLoad(MakeFile(0.7, 0.02), options, 100, 20);
    // The first second refuses, until a query is let through.
    EXPECT_LT(result.violation(), 0.06) << takes;
  }
}

// A device that is a little slower for all, which no single round shows clearly.
TEST(Simulator, ASmallErrorThatAllServicesShareIsFollowed) {
  SimOptions options = Options("abacus");
  options.takes = {1.2, 1.2};
  const SimResult slower = RunLoad(MakeFile(0.7, 0.02), options, 1000);
  EXPECT_LT(slower.violation(), 0.02);
  EXPECT_LT(static_cast<double>(slower.rounds_over), 0.05 * static_cast<double>(slower.rounds));
}

TEST(Simulator, ErrorsAreNamed) {
  EXPECT_FALSE(Simulate(MakeFile(0.7), Options("fifo"), {}));
  PredictorFile broken = MakeFile(0.7);
  broken.layers.clear();
  EXPECT_FALSE(Simulate(broken, Options("abacus"), {}));
}

TEST(SimulateProgram, PrintsATableATimelineAndWritesFigures) {
  const std::string base = testing::TempDir() + "simulate-" + std::to_string(getpid());
  const std::string predictor = base + ".predictor", csv = base + ".csv", out = base + ".out";
  ASSERT_TRUE(SavePredictor(MakeFile(0.7, 0.02), predictor).ok());
  const std::string program = std::string(ABACUS_BIN_DIR) + "/abacus-bench simulate --predictor " + predictor;
  ASSERT_EQ(std::system((program +
                         " --models long,short --seconds 1 --loads 0.5,1 --policies edf,abacus --timeline 3"
                         " --csv " +
                         csv + " >" + out + " 2>&1")
                            .c_str()),
            0);
  const auto read = [](const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string figures = read(csv), shown = read(out);
  EXPECT_EQ(std::count(figures.begin(), figures.end(), '\n'), 5) << figures;
  EXPECT_THAT(shown, testing::HasSubstr("predicted  long"));
  // A round stands in one line with what ran in it.
  EXPECT_TRUE(std::regex_search(shown, std::regex("\n +1 +0\\.000 .*b[0-9]+ \\[0, "))) << shown;
  EXPECT_NE(std::system((program + " --models nobody >" + out + " 2>&1").c_str()), 0);
  EXPECT_THAT(read(out), testing::HasSubstr("no model \"nobody\"; it has long short"));
  for (const std::string& path : {predictor, csv, out}) unlink(path.c_str());
}

}  // namespace
}  // namespace abacus::bench
