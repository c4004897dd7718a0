// The subcommands simulate, ceiling and headroom of abacus-bench, as people start them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "predictor/features.h"
#include "predictor/predictor_file.h"

namespace abacus::bench {
namespace {

using ::testing::HasSubstr;

class BenchProgram : public ::testing::Test {
 protected:
  BenchProgram() : folder_(testing::TempDir() + "bench-program-" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
    EXPECT_TRUE(SavePredictor(MakeFile(), folder_ / "p").ok());
  }
  ~BenchProgram() override { std::filesystem::remove_all(folder_); }

  // Models "long" and "short" of 1000 and 500 us a row, 8 rows in 1.7 times that; groups take 70 % of their parts.
  static PredictorFile MakeFile() {
    PredictorFile file;
    file.subject.device = file.subject.libraries = "test";
    for (const double one_row_us : {1000.0, 500.0}) {
      ModelProfile model;
      model.name = one_row_us > 700 ? "long" : "short";
      for (const int64_t batch : {1, 8}) {
        BucketProfile bucket;
        bucket.batch = batch;
        bucket.operators = 8;
        for (uint32_t op = 0; op <= 8; ++op) {
          bucket.operators_at.push_back(op);
          bucket.us.push_back(one_row_us * (1 + 0.1 * static_cast<double>(batch - 1)) * op / 8);
        }
        model.buckets.push_back(bucket);
      }
      file.subject.models.push_back(model);
    }
    size_t inputs = FeatureCount(2);
    for (const size_t outputs : {kHiddenWidth, size_t{1}}) {
      MlpLayer layer{inputs, outputs, std::vector<float>(inputs * outputs), std::vector<float>(outputs)};
      if (outputs == 1) layer.bias[0] = std::log(0.7f);
      file.layers.push_back(layer);
      inputs = outputs;
    }
    file.trained.push_back({{0, 1}, 100, 0});
    for (int i = 0; i <= 100; ++i) file.residuals.push_back(0.02 * (i - 50) / 50);
    return file;
  }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Read(const std::string& name) const {
    std::ifstream file(folder_ / name);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  // Runs it; its output is in the file "out".
  int Run(const std::string& arguments) const {
    const std::string program = std::string(ABACUS_BIN_DIR) + "/abacus-bench ";
    return std::system((program + arguments + " >" + Path("out") + " 2>&1").c_str());
  }
  int Simulate(const std::string& arguments) const {
    return Run("simulate --predictor " + Path("p") + " --models long,short " + arguments);
  }
  // Lines of a CSV file, by column.
  std::vector<std::map<std::string, std::string>> Rows(const std::string& name) const {
    std::istringstream lines(Read(name));
    std::vector<std::string> columns;
    std::vector<std::map<std::string, std::string>> rows;
    for (std::string line; std::getline(lines, line);) {
      std::istringstream fields(line);
      std::vector<std::string> values;
      for (std::string value; std::getline(fields, value, ',');) values.push_back(value);
      if (columns.empty()) {
        columns = values;
        continue;
      }
      EXPECT_EQ(values.size(), columns.size()) << line;
      auto& row = rows.emplace_back();
      for (size_t i = 0; i < std::min(columns.size(), values.size()); ++i) row[columns[i]] = values[i];
    }
    return rows;
  }

  const std::filesystem::path folder_;
};

TEST_F(BenchProgram, ComparesPoliciesInATableATimelineAndACsv) {
  ASSERT_EQ(Simulate("--seconds 1 --qos 10ms --loads 0.5,1 --policies edf,abacus --timeline 3 --csv " + Path("csv")), 0)
      << Read("out");
  const auto rows = Rows("csv");
  ASSERT_EQ(rows.size(), 2 * 2 * 3u) << "loads, policies; all and each service";
  EXPECT_EQ(rows[0].at("service"), "total");
  EXPECT_EQ(rows[1].at("service"), "long");
  EXPECT_EQ(std::stoul(rows[0].at("sent")), std::stoul(rows[1].at("sent")) + std::stoul(rows[2].at("sent")));
  EXPECT_EQ(rows[3].at("policy"), "abacus");
  const std::string shown = Read("out");
  EXPECT_THAT(shown, HasSubstr("targets 10ms, 10ms"));
  EXPECT_THAT(shown, HasSubstr("predicted  long"));
  // A round stands in one line with what ran in it.
  EXPECT_TRUE(std::regex_search(shown, std::regex("\n +1 +0\\.000 .*b[0-9]+ \\[0, "))) << shown;
}

TEST_F(BenchProgram, AllPoliciesAreCompared) {
  ASSERT_EQ(Simulate("--seconds 0.2 --loads 1 --policies all --csv " + Path("csv")), 0) << Read("out");
  std::vector<std::string> policies;
  for (const auto& row : Rows("csv")) policies.push_back(row.at("policy"));
  EXPECT_THAT(policies, testing::IsSupersetOf({"abacus", "abacus:off", "edf", "sjf", "fcfs", "free", "delay",
                                               "delay:1ms", "delay-free", "clockwork"}));
}

TEST_F(BenchProgram, FindsTheLimitOfEachSeed) {
  ASSERT_EQ(Simulate("--seconds 2 --qos 15ms --policies edf:off,edf --find-limit 1% --seeds 2 --csv " + Path("csv")), 0)
      << Read("out");
  const auto rows = Rows("csv");
  ASSERT_EQ(rows.size(), 2 * 2 * 3u);
  for (const auto& row : rows) EXPECT_LE(std::stod(row.at("violation")), 0.01) << row.at("service");
  // One query at a time the GPU does 1.0, in batches of eight 8 / 1.7 = 4.7.
  EXPECT_NEAR(std::stod(rows[0].at("load")), 0.95, 0.08);
  EXPECT_NEAR(std::stod(rows[6].at("load")), 4.6, 0.3);
  EXPECT_EQ(rows[3].at("seed"), "2");
}

TEST_F(BenchProgram, SavedArrivalsAreTheSameArrivals) {
  ASSERT_EQ(Simulate("--seconds 1 --loads 0.8 --policies edf --arrivals bursts --rows mixed --save-trace " +
                     Path("trace") + " --csv " + Path("drawn")),
            0)
      << Read("out");
  EXPECT_THAT(Read("trace"), HasSubstr("at_s,service,rows,sequence\n0."));
  ASSERT_EQ(Simulate("--policies edf --arrivals " + Path("trace") + " --csv " + Path("replayed")), 0) << Read("out");
  const auto drawn = Rows("drawn"), replayed = Rows("replayed");
  ASSERT_EQ(drawn.size(), replayed.size());
  for (const char* column : {"sent", "in_time", "late", "refused", "p50_ms", "p99_ms", "rows_per_job"}) {
    EXPECT_EQ(drawn[0].at(column), replayed[0].at(column)) << column;
  }
}

TEST_F(BenchProgram, WrongOptionsAreNamed) {
  EXPECT_NE(Run("simulate --predictor " + Path("p") + " --models nobody"), 0);
  EXPECT_THAT(Read("out"), HasSubstr("no model \"nobody\"; it has long short"));
  for (const char* wrong : {"--policies fifo", "--qos 10", "--find-limit 1", "--find-limit 0%", "--rows none",
                            "--loads 0", "--arrivals nowhere.csv", "--arrivals diurnal --swing 2", "--burst 5"}) {
    EXPECT_NE(Simulate("--seconds 0.1 --loads 1 --policies edf " + std::string(wrong)), 0) << wrong;
  }
}

TEST_F(BenchProgram, CeilingComparesAbacusWithTheBestCycle) {
  ASSERT_EQ(Run("ceiling --predictor " + Path("p") + " --seconds 2 --cuts 2 --csv " + Path("csv")), 0) << Read("out");
  const auto rows = Rows("csv");
  ASSERT_EQ(rows.size(), 1u);
  // Batches of eight beside each other, always: 1 / 0.7.
  EXPECT_NEAR(std::stod(rows[0].at("ceiling")), 1 / 0.7, 0.01);
  EXPECT_GT(std::stod(rows[0].at("ratio")), 0.9);
  EXPECT_LT(std::stod(rows[0].at("ratio")), 1.01);
  EXPECT_THAT(Read("out"), HasSubstr("long batch 8 ["));
  EXPECT_NE(Run("ceiling --predictor " + Path("p") + " --groups long+long"), 0);
  EXPECT_NE(Run("ceiling --predictor " + Path("p") + " --cuts 8 --most-rounds 100"), 0);
  EXPECT_THAT(Read("out"), HasSubstr("more than 100"));
}

TEST_F(BenchProgram, HeadroomMeasuresEveryScaleThatWasAsked) {
  ASSERT_EQ(Run("headroom --decisions 100 --services 2,4 --queued 64 --batch-sizes 6 --packings balanced --json " +
                Path("json")),
            0)
      << Read("out");
  const auto results = nlohmann::json::parse(Read("json"))["results"];
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[1]["services"], 4);
  EXPECT_EQ(results[1]["queued"], 64);
  EXPECT_EQ(results[1]["batch_sizes"], 6);
  EXPECT_GE(results[1]["p99_ns"], results[1]["median_ns"]);
  EXPECT_GT(results[1]["ranges_per_round"], 1.0);
  EXPECT_GT(results[1]["queries_per_new_job"], 1.0) << "batches are formed";
}

}  // namespace
}  // namespace abacus::bench
