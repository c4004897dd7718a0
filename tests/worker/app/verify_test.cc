#include "worker/app/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/worker/app/command_test.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class VerifyTest : public test::CommandTest {};

TEST_F(VerifyTest, DescribesAModelThatAWorkerServes) {
  const std::string model = Save(test::kSound).string();
  EXPECT_EQ(Run({"verify", "--model", model, "--json"}), 0) << errors_;
  EXPECT_THAT(errors_, IsEmpty());
  const nlohmann::json json = nlohmann::json::parse(output_);
  EXPECT_EQ(json["model"], "tested");
  EXPECT_EQ(json["device"], "cpu");
  EXPECT_EQ(json["digest"].get<std::string>().size(), 64u);
  EXPECT_EQ(json["structure"].get<std::string>().size(), 64u);
  EXPECT_EQ(json["buckets"], 3);
  EXPECT_EQ(json["claims"]["batchable"], true);
  EXPECT_EQ(Run({"verify", "--model", model}), 0);
  EXPECT_THAT(output_, HasSubstr("tested on cpu: 3 buckets, rows are independent"));
}

TEST_F(VerifyTest, TakesTheDigestOverDescriptionAndFile) {
  const auto digest = [this](const std::string& model) {
    EXPECT_EQ(Run({"verify", "--model", model, "--json"}), 0) << errors_;
    return nlohmann::json::parse(output_)["digest"].get<std::string>();
  };
  const std::string model = Save(test::kSound).string();
  const std::string first = digest(model);
  EXPECT_EQ(digest(model), first);
  std::ofstream(model, std::ios::app) << "# changed\n";
  EXPECT_NE(digest(model), first);
}

TEST_F(VerifyTest, RefusesWhatAWorkerRefusesAndSaysWhy) {
  EXPECT_EQ(Run({"verify", "--model", (dir_.path() / "none.toml").string()}), 2);
  EXPECT_THAT(errors_, HasSubstr("none.toml"));

  const std::string random = Save("\ndef forward(self, x):\n    return x + torch.rand_like(x) * 0.0001\n").string();
  EXPECT_EQ(Run({"verify", "--model", random}), 2);
  EXPECT_THAT(errors_, HasSubstr("random"));
  EXPECT_THAT(output_, IsEmpty());

  const std::string narrow = Save("\ndef forward(self, x):\n    return x.narrow(1, 0, 5)\n").string();
  EXPECT_EQ(Run({"verify", "--model", narrow}), 2);
  EXPECT_THAT(errors_, HasSubstr("output \"y\""));

  const std::string model = Save(test::kSound).string();
  std::ofstream(dir_.path() / "tested.pt", std::ios::trunc) << "no model";
  EXPECT_EQ(Run({"verify", "--model", model}), 2);
  EXPECT_THAT(errors_, HasSubstr("tested.pt"));
}

}  // namespace
}  // namespace abacus
