#include "base/duration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace abacus {
namespace {

using ::testing::HasSubstr;

TEST(DurationTest, ReadsNumbersWithUnits) {
  const std::vector<std::pair<std::string, uint64_t>> table = {
      {"0s", 0},
      {"0.0h", 0},
      {"1ns", 1},
      {"800us", 800'000},
      {"50ms", 50'000'000},
      {"50 ms", 50'000'000},
      {"007ms", 7'000'000},
      {"2.5s", 2'500'000'000},
      {"0.3ms", 300'000},
      {"0.0004us", 0},
      {"0.0005us", 1},
      {"1min", 60'000'000'000},
      {"90 min", 5'400'000'000'000},
      {"1h", 3'600'000'000'000},
      {"9007199254740993ns", 9'007'199'254'740'993},  // no double holds it
      {"2562047h", 2'562'047ull * 3'600'000'000'000},
  };
  for (const auto& [text, ns] : table) {
    const Result<uint64_t> parsed = ParseDuration(text);
    ASSERT_TRUE(parsed) << text << ": " << parsed.error().message();
    EXPECT_EQ(*parsed, ns) << text;
  }
}

TEST(DurationTest, RefusesEverythingElse) {
  for (const std::string text :
       {"",    "5",   "ms",   "-1ms", "+1ms", "1e3ms", ".5s",  "5.s",  "1ms ",   " 1ms",   "1\tms",
        "1MS", "1 m", "1msx", "inf",  "nan",  "infs",  "0x1s", "1,5s", "1.2.3s", "1min30s"}) {
    const Result<uint64_t> parsed = ParseDuration(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(parsed.error().message(), HasSubstr("ns, us, ms, s, min, h"));
  }
  for (const std::string& text : {std::string("2562048h"), std::string("18446744073709551616ns"),
                                  std::string("9223372036854775808ns"), std::string(5000, '9') + "h"}) {
    const Result<uint64_t> parsed = ParseDuration(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_THAT(parsed.error().message(), HasSubstr("longer than 292 years"));
    EXPECT_LT(parsed.error().message().size(), 100u);
  }
  EXPECT_EQ(ParseDuration("\x01\xff").error().message().find('\xff'), std::string::npos);
}

TEST(DurationTest, ABareNumberHasTheUnitThatTheCallerSays) {
  EXPECT_EQ(ParseDurationOr("500", "us").value(), 500'000u);
  EXPECT_EQ(ParseDurationOr("0.5", "s").value(), 500'000'000u);
  EXPECT_EQ(ParseDurationOr("50ms", "us").value(), 50'000'000u);
  for (const char* text : {"", "-1", "nan", "inf", "1e3", "9223372036854775808", "18446744073709551615"}) {
    EXPECT_FALSE(ParseDurationOr(text, "us")) << text;
  }
}

TEST(DurationTest, TextIsTheShortestAndReadsBackAsTheSame) {
  const std::vector<std::pair<uint64_t, std::string>> table = {
      {0, "0s"},
      {1, "1ns"},
      {999, "999ns"},
      {1'500, "1.5us"},
      {50'000'000, "50ms"},
      {12'345'000, "12.345ms"},
      {2'500'000'000, "2.5s"},
      {60'000'000'000, "1min"},
      {90'000'000'000, "90s"},
      {3'600'000'000'000, "1h"},
      {1'000'000'001, "1.000000001s"},
  };
  for (const auto& [ns, text] : table) EXPECT_EQ(FormatDuration(ns), text);
  uint64_t ns = 1;
  for (int i = 0; i < 2000; ++i) {
    ns = ns * 6364136223846793005u + 1442695040888963407u;
    const uint64_t value = (ns >> 1) >> (i % 63);
    EXPECT_EQ(ParseDuration(FormatDuration(value)).value(), value);
  }
}

}  // namespace
}  // namespace abacus
