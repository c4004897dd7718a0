#include "controller/config/config_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/controller/config/every_key.h"

namespace abacus {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kBare =
    "[[service]]\nname = 'text'\nmodel = 'fake/fake-text.toml'\n"
    "[[service]]\nname = 'image'\nmodel = 'fake/fake-image.toml'\n";

Json JsonOf(std::string_view text, const std::vector<std::string>& overrides = {}) {
  const Result<Config> config = ParseConfig(text, kPath, overrides);
  EXPECT_TRUE(config) << config.error().message();
  return config ? ToJson(*config) : Json();
}

TEST(ConfigJsonTest, HasEveryKeyOfTheFile) {
  const Json json = JsonOf(kText);
  std::string section;
  int service = -1;
  for (size_t begin = 0; begin < kText.size();) {
    const size_t end = kText.find('\n', begin);
    const std::string line(kText.substr(begin, end - begin));
    begin = end + 1;
    if (line.starts_with("[[")) {
      ++service;
    } else if (line.starts_with("[")) {
      section = line.substr(1, line.size() - 2);
    } else {
      const std::string key = line.substr(0, line.find(' '));
      const Json& table = service < 0 ? json.at(section) : json.at("service").at(static_cast<size_t>(service));
      EXPECT_TRUE(table.contains(key)) << line;
    }
  }
  EXPECT_EQ(service, 1);
}

// Each value as an override of a file that says nothing gives the same configuration: same keys, spelling and units.
TEST(ConfigJsonTest, ValuesAreThoseOfTheFile) {
  const Json json = JsonOf(kText);
  std::vector<std::string> overrides;
  for (const auto& [section, table] : json.items()) {
    if (section == "service") continue;
    for (const auto& [key, value] : table.items()) overrides.push_back(section + "." + key + "=" + value.dump());
  }
  for (const Json& service : json.at("service")) {
    for (const auto& [key, value] : service.items()) {
      overrides.push_back("service." + service.at("name").get<std::string>() + "." + key + "=" + value.dump());
    }
  }
  EXPECT_EQ(JsonOf(kBare, overrides).dump(2), json.dump(2));
}

TEST(ConfigJsonTest, ShowsDefaultsInForce) {
  const Json json = JsonOf(kBare);
  EXPECT_EQ(json.at("server").at("name"), "default");
  EXPECT_EQ(json.at("server").at("drain_timeout_ms").dump(), "10000") << "a whole number stays one";
  EXPECT_EQ(json.at("scheduler").at("predictor"), "none");
  EXPECT_TRUE(json.at("scheduler").at("margin").is_null());
  EXPECT_GE(json.at("scheduler").at("spin_us").get<int>(), 0) << "not the -1 that stands for it";
  EXPECT_EQ(json.at("worker").at("device"), "auto");
  EXPECT_EQ(json.at("worker").at("gpu"), Json::array({"0"}));
  EXPECT_EQ(json.at("service").at(1).at("gpu"), "0");
  EXPECT_EQ(json.at("service").at(1).at("model"), (kPath.parent_path() / "fake/fake-image.toml").string());
}

}  // namespace
}  // namespace abacus
