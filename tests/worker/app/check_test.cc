#include "worker/app/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/worker/torch/test_models.h"
#include "worker/app/command_line.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;

class CheckTest : public ::testing::Test {
 protected:
  // Saves a model of one float input and output [batch, 6] with its TOML.
  std::filesystem::path Save(const std::string& forward) {
    const ModelSpec spec = test::SaveModel(dir_, "tested", forward, {{"weight", {6, 6}}});
    std::ofstream(spec.toml_path) << R"(
name = "tested"
file = "tested.pt"
tolerance = 1e-3
[buckets]
batch = [1, 2, 4]
[[inputs]]
name = "x"
dtype = "float32"
shape = ["batch", 6]
[[outputs]]
name = "y"
dtype = "float32"
shape = ["batch", 6]
)";
    return spec.toml_path;
  }

  int Run(const std::vector<std::string>& arguments) {
    std::vector<const char*> argv = {"abacus-worker", "check"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    WorkerCommands commands;
    commands.check = RunCheck;
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int exit_code = RunCommandLine(static_cast<int>(argv.size()), argv.data(), commands);
    output_ = ::testing::internal::GetCapturedStdout();
    errors_ = ::testing::internal::GetCapturedStderr();
    return exit_code;
  }

  test::TempDir dir_;
  std::string output_;
  std::string errors_;
};

constexpr const char* kSound = R"(
def forward(self, x):
    y = torch.tanh(torch.matmul(x, self.weight))
    return torch.relu(y + x) * y
)";

TEST_F(CheckTest, ReportsEveryBucketOfASoundModel) {
  EXPECT_EQ(Run({"--model", Save(kSound).string(), "--json", "--repetitions", "3"}), 0) << errors_;
  std::istringstream lines(output_);
  std::string line;
  for (int64_t batch : {1, 2, 4}) {
    ASSERT_TRUE(std::getline(lines, line));
    const nlohmann::json json = nlohmann::json::parse(line);
    EXPECT_EQ(json["model"], "tested");
    EXPECT_EQ(json["device"], "cpu");
    EXPECT_EQ(json["batch"], batch);
    EXPECT_GE(json["operators"], 5);
    EXPECT_EQ(json["cuts"], json["operators"].get<int>() + 1);
    EXPECT_GE(json["ways"].get<int>(), json["operators"].get<int>() + 1);
    EXPECT_EQ(json["max_difference"], 0.0);
    for (const char* way : {"whole", "full_range", "two_slices", "four_slices"}) EXPECT_GT(json["time_us"][way], 0.0);
    EXPECT_TRUE(json["ok"].get<bool>());
  }
  EXPECT_FALSE(std::getline(lines, line));
}

TEST_F(CheckTest, ChecksOnlyTheBatchesAskedFor) {
  EXPECT_EQ(Run({"--model", Save(kSound).string(), "--batch", "1,4", "--repetitions", "1"}), 0);
  EXPECT_THAT(output_, HasSubstr("batch 1 "));
  EXPECT_THAT(output_, HasSubstr("batch 4 "));
  EXPECT_THAT(output_, ::testing::Not(HasSubstr("batch 2 ")));
  EXPECT_EQ(Run({"--model", Save(kSound).string(), "--batch", "3"}), 2);
  EXPECT_THAT(errors_, HasSubstr("--batch 3: no such batch size"));
}

TEST_F(CheckTest, FailsWhenRunsDiffer) {
  // Random noise below the tolerance: every run differs from the uncut one.
  const std::filesystem::path model = Save(R"(
def forward(self, x):
    y = torch.tanh(torch.matmul(x, self.weight))
    return y + torch.rand_like(y) * 0.0001
)");
  EXPECT_EQ(Run({"--model", model.string(), "--repetitions", "1"}), 1);
  EXPECT_THAT(output_, HasSubstr("DIFFERENT"));
}

TEST_F(CheckTest, FailsWhenTheModelCannotBeLoaded) {
  EXPECT_EQ(Run({"--model", (dir_.path() / "none.toml").string()}), 2);
  EXPECT_THAT(errors_, HasSubstr("none.toml"));
}

}  // namespace
}  // namespace abacus
