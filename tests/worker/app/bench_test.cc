#include "worker/app/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/worker/app/command_test.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;

class BenchTest : public test::CommandTest {
 protected:
  std::vector<nlohmann::json> Lines() const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(output_);
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
};

TEST_F(BenchTest, ComparesOneQueryWithAsManyAsFillTheBatch) {
  EXPECT_EQ(Run({"bench", "--model", Save(test::kSound).string(), "--json", "--repetitions", "3"}), 0) << errors_;
  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 3u);
  for (size_t i = 0; i < lines.size(); ++i) {
    const int64_t batch = int64_t{1} << i;
    EXPECT_EQ(lines[i]["model"], "tested");
    EXPECT_EQ(lines[i]["device"], "cpu");
    EXPECT_EQ(lines[i]["batch"], batch);
    EXPECT_EQ(lines[i]["one_query"]["queries"], 1);
    EXPECT_GT(lines[i]["one_query"]["pass_us"], 0.0);
    EXPECT_GE(lines[i]["one_query"]["pass_us"], lines[i]["one_query"]["enqueue_us"]);
    EXPECT_FALSE(lines[i]["one_query"].contains("share_percent"));
    ASSERT_EQ(lines[i].contains("queries"), batch > 1) << "there is nothing to compare with";
    if (batch == 1) continue;
    EXPECT_EQ(lines[i]["queries"]["queries"], batch);
    EXPECT_GT(lines[i]["queries"]["share_percent"], -100.0);
    EXPECT_FALSE(lines[i].contains("lengths")) << "the model has no sequence";
  }
}

TEST_F(BenchTest, TimesUnequalLengthsWhereTheyMayBePadded) {
  const std::string description = R"(
[buckets]
batch = [1, 4]
sequence = [8]
[[inputs]]
name = "ids"
dtype = "int64"
shape = ["batch", "sequence"]
range = [0, 7]
[[outputs]]
name = "y"
dtype = "int64"
shape = ["batch", "sequence"]
)";
  const std::string model = Save("\ndef forward(self, ids):\n    return ids * 2 + 1\n", description).string();
  EXPECT_EQ(Run({"bench", "--model", model, "--batch", "4", "--json", "--repetitions", "2"}), 0) << errors_;
  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["sequence"], 8);
  EXPECT_EQ(lines[0]["lengths"]["queries"], 4);
  EXPECT_EQ(Run({"bench", "--model", model, "--repetitions", "2"}), 0) << errors_;
  EXPECT_THAT(output_, HasSubstr("batch 4, sequence 8"));
}

TEST_F(BenchTest, FailsWhenThereIsNothingToRun) {
  EXPECT_EQ(Run({"bench", "--model", (dir_.path() / "none.toml").string()}), 2);
  EXPECT_THAT(errors_, HasSubstr("none.toml"));
  EXPECT_EQ(Run({"bench", "--model", Save(test::kSound).string(), "--batch", "3"}), 2);
  EXPECT_THAT(errors_, HasSubstr("--batch 3: no such batch size"));
}

}  // namespace
}  // namespace abacus
