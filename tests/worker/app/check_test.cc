#include "worker/app/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tests/worker/app/command_test.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CheckTest : public test::CommandTest {};

TEST_F(CheckTest, ReportsEveryBucketOfASoundModel) {
  EXPECT_EQ(Run({"check", "--model", Save(test::kSound).string(), "--json", "--repetitions", "3"}), 0) << errors_;
  std::istringstream lines(output_);
  std::string line;
  for (int64_t batch : {1, 2, 4}) {
    ASSERT_TRUE(std::getline(lines, line));
    const nlohmann::json json = nlohmann::json::parse(line);
    EXPECT_EQ(json["model"], "tested");
    EXPECT_EQ(json["device"], "cpu");
    EXPECT_EQ(json["batch"], batch);
    EXPECT_GE(json["operators"], 4);
    EXPECT_EQ(json["cuts"], json["operators"].get<int>() + 1);
    EXPECT_GE(json["ways"].get<int>(), json["operators"].get<int>() + 1);
    EXPECT_EQ(json["max_difference"], 0.0);
    EXPECT_EQ(json["scales"], nlohmann::json::array({"N(0, 1)", "0..1", "pixels 0..255", "1000 N(0, 1)", "with a NaN",
                                                     "with an infinity"}));
    EXPECT_EQ(json.contains("padded_difference"), batch > 1);
    for (const char* way : {"whole", "full_range", "two_slices", "four_slices"}) EXPECT_GT(json["time_us"][way], 0.0);
    EXPECT_TRUE(json["ok"].get<bool>());
  }
  EXPECT_FALSE(std::getline(lines, line));
}

TEST_F(CheckTest, ChecksOnlyTheBatchesAskedFor) {
  EXPECT_EQ(Run({"check", "--model", Save(test::kSound).string(), "--batch", "1,4", "--repetitions", "1"}), 0);
  EXPECT_THAT(output_, HasSubstr("batch 1 "));
  EXPECT_THAT(output_, HasSubstr("batch 4 "));
  EXPECT_THAT(output_, Not(HasSubstr("batch 2 ")));
  EXPECT_EQ(Run({"check", "--model", Save(test::kSound).string(), "--batch", "3"}), 2);
  EXPECT_THAT(errors_, HasSubstr("--batch 3: no such batch size"));
}

TEST_F(CheckTest, LeavesOutAScaleThatThePlainModuleCannotAnswer) {
  const std::filesystem::path model = Save(R"(
def forward(self, x):
    return torch.exp(x)
)");
  EXPECT_EQ(Run({"check", "--model", model.string(), "--repetitions", "1"}), 0) << output_ << errors_;
  EXPECT_THAT(output_, HasSubstr("left out 1000 N(0, 1): the plain module answers NaN or infinities"));
}

TEST_F(CheckTest, SaysWhatAnIndexOutsideTheSampleRangeDoes) {
  const std::string description = R"(
[buckets]
batch = [2]
[[inputs]]
name = "ids"
dtype = "int64"
shape = ["batch", 3]
[[outputs]]
name = "y"
dtype = ")";
  const auto model = [&](const std::string& forward, const std::string& rest) {
    return Save(forward, description + rest).string();
  };
  const std::string table = model("\ndef forward(self, ids):\n    return torch.embedding(self.table, ids)\n",
                                  "float32\"\nshape = [\"batch\", 3, 6]\n");
  EXPECT_EQ(Run({"check", "--model", table, "--repetitions", "1"}), 0) << output_ << errors_;
  EXPECT_THAT(output_, HasSubstr("input \"ids\" has no declared range: -1 fails the query: "));
  EXPECT_THAT(output_, HasSubstr("; 2147483648 fails the query: "));

  const std::string sum =
      model("\ndef forward(self, ids):\n    return ids + ids\n", "int64\"\nshape = [\"batch\", 3]\n");
  EXPECT_EQ(Run({"check", "--model", sum, "--repetitions", "1", "--json"}), 0) << output_ << errors_;
  EXPECT_THAT(output_, HasSubstr("has no declared range: -1 is accepted; 2147483648 is accepted"));

  const std::string loop = model(
      "\ndef forward(self, ids):\n    for i in range(int(torch.max(ids))):\n        ids = ids + 1\n    return ids\n",
      "int64\"\nshape = [\"batch\", 3]\n");
  (void)Run({"check", "--model", loop, "--repetitions", "1"});
  EXPECT_THAT(output_ + errors_, Not(HasSubstr("2147483648")));
}

TEST_F(CheckTest, FailsWhenTheModelCannotBeLoaded) {
  EXPECT_EQ(Run({"check", "--model", (dir_.path() / "none.toml").string()}), 2);
  EXPECT_THAT(errors_, HasSubstr("none.toml"));
}

}  // namespace
}  // namespace abacus
