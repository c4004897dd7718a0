#include "worker/app/cases.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/npy.h"
#include "tests/worker/app/command_test.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;

// y = 2 x + 1 in batches of 2 and 4, for x in [-10, 10].
class CasesTest : public test::CommandTest {
 protected:
  CasesTest()
      : model_(Save("\ndef forward(self, x):\n    return x * 2.0 + 1.0\n", R"(
[buckets]
batch = [2, 4]
[[inputs]]
name = "x"
dtype = "float32"
shape = ["batch", 2]
range = [-10.0, 10.0]
[[outputs]]
name = "y"
dtype = "float32"
shape = ["batch", 2]
)")
                   .string()),
        cases_(dir_.path() / "cases") {
    std::filesystem::create_directory(cases_);
  }

  void Write(const std::string& name, const std::string& tensor, const Shape& shape, const std::vector<float>& values) {
    std::filesystem::create_directory(cases_ / name);
    ASSERT_TRUE(
        WriteNpyArray(cases_ / name / (tensor + ".npy"), DType::kFloat32, shape, std::as_bytes(std::span(values)))
            .ok());
  }
  int Check() { return Run({"check", "--model", model_, "--cases", cases_.string(), "--json"}); }

  const std::string model_;
  const std::filesystem::path cases_;
};

TEST_F(CasesTest, AreAnsweredAsRecorded) {
  Write("whole", "x", {2, 2}, {1, 2, 3, 4});
  Write("whole", "y", {2, 2}, {3, 5, 7, 9});
  Write("padded", "x", {3, 2}, {1, 2, 3, 4, 5, 6});
  Write("padded", "y", {3, 2}, {3, 5, 7, 9, 11, 13});
  EXPECT_EQ(Check(), 0) << output_ << errors_;
  const nlohmann::json padded = nlohmann::json::parse(output_.substr(0, output_.find('\n')));
  EXPECT_EQ(padded["case"], "padded");
  EXPECT_EQ(padded["bucket"], 1);
  EXPECT_TRUE(padded["ok"].get<bool>());
  EXPECT_THAT(output_, HasSubstr("\"case\":\"whole\",\"bucket\":0"));
}

TEST_F(CasesTest, MayHaveATolerantOrAStricterComparison) {
  Write("case", "x", {1, 2}, {1, 2});
  Write("case", "y", {1, 2}, {3, 5.5});
  const auto tolerance = [&](const std::string& text) { std::ofstream(cases_ / "case" / "tolerance") << text; };
  tolerance("y 0.2\n");
  EXPECT_EQ(Check(), 0) << output_ << errors_;
  const nlohmann::json report = nlohmann::json::parse(output_);
  EXPECT_NEAR(report["difference"].get<double>(), 0.5 / 5.5, 1e-6);
  EXPECT_NEAR(report["of_tolerance"].get<double>(), 0.5 / 5.5 / 0.2, 1e-6);
  tolerance("y 0.05\n");
  EXPECT_EQ(Check(), 1);
  for (const char* wrong : {"z 0.1\n", "y much\n", "y -1\n", "y 0.1 0.2\n"}) {
    tolerance(wrong);
    EXPECT_EQ(Check(), 2) << wrong;
    EXPECT_THAT(errors_, HasSubstr("is not the name of an output and a tolerance"));
  }
}

TEST_F(CasesTest, FailWhereAnAnswerIsNotTheRecordedOne) {
  Write("right", "x", {1, 2}, {1, 2});
  Write("right", "y", {1, 2}, {3, 5});
  Write("wrong", "x", {1, 2}, {1, 2});
  Write("wrong", "y", {1, 2}, {3, 5.5});
  EXPECT_EQ(Check(), 1);
  EXPECT_THAT(output_,
              HasSubstr("\"case\":\"right\",\"bucket\":0,\"difference\":0.0,\"of_tolerance\":0.0,\"ok\":true"));
  EXPECT_THAT(output_, HasSubstr("output \\\"y\\\""));
}

TEST_F(CasesTest, AreRefusedWhereAServerWouldRefuseThem) {
  const auto expect_refused = [this](const Shape& shape, const std::vector<float>& x, const std::string& why) {
    Write("case", "x", shape, x);
    EXPECT_EQ(Check(), 2);
    EXPECT_THAT(errors_, HasSubstr(why));
  };
  Write("case", "y", {1, 2}, {3, 5});
  expect_refused({1, 3}, {1, 2, 3}, "x.npy: is float32 [1, 3]");
  expect_refused({2, 2}, {1, 2, 3, 4}, "y.npy: is float32 [1, 2]");  // of another batch
  expect_refused({1, 2}, {1, 11}, "outside of the declared range");
  Write("case", "y", {5, 2}, std::vector<float>(10));
  expect_refused({5, 2}, std::vector<float>(10), "takes batch 5");
}

TEST_F(CasesTest, NeedEveryTensorAndACase) {
  EXPECT_EQ(Check(), 2);
  EXPECT_THAT(errors_, HasSubstr("no case in it"));
  Write("case", "x", {1, 2}, {1, 2});
  EXPECT_EQ(Check(), 2);
  EXPECT_THAT(errors_, HasSubstr("y.npy"));
}

}  // namespace
}  // namespace abacus
