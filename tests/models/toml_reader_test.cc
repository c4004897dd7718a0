#include "models/toml_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace abacus {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A document and a reader of its root.
class Document {
 public:
  explicit Document(std::string_view text)
      : table_(ParseToml(text, "f.toml").value()), reader_(&table_, "", "f.toml") {}
  TableReader& reader() { return reader_; }

 private:
  toml::table table_;
  TableReader reader_;
};

TEST(TomlReaderTest, ReadsEveryTypeAndLeavesAbsentKeysAlone) {
  Document document(R"(
integer = 7
number = 2.5
whole = 3
bool = true
string = "s"
ascending = [1, 2, 8]
strings = ["a", "b"]
lone = "c"
wait = "1.5ms"
mib = 2
[table]
x = 1
)");
  TableReader& reader = document.reader();
  int integer = 0;
  int absent = 42;
  double number = 0;
  double whole = 0;
  bool flag = false;
  std::string string;
  std::vector<int64_t> ascending;
  std::vector<std::string> strings;
  std::vector<std::string> lone;
  uint64_t ns = 0;
  uint64_t bytes = 0;
  EXPECT_TRUE(reader.Integer("integer", 0, 10, &integer));
  EXPECT_FALSE(reader.Integer("absent", 0, 10, &absent));
  EXPECT_TRUE(reader.Number("number", 0, 10, &number));
  EXPECT_TRUE(reader.Number("whole", 0, 10, &whole));
  EXPECT_TRUE(reader.Bool("bool", &flag));
  EXPECT_TRUE(reader.String("string", &string));
  EXPECT_TRUE(reader.Ascending("ascending", 1, 8, &ascending));
  EXPECT_TRUE(reader.Strings("strings", &strings));
  EXPECT_TRUE(reader.Strings("lone", &lone));
  EXPECT_TRUE(reader.Duration("wait", {.unit = "ms", .high_ns = 10'000'000}, &ns));
  EXPECT_TRUE(reader.ScaledInteger("mib", 0, 10, 1 << 20, &bytes));
  EXPECT_TRUE(reader.Table("table").has("x"));
  EXPECT_FALSE(reader.Table("no_table").has_table());
  EXPECT_TRUE(reader.Finish().ok()) << reader.Finish().message();
  EXPECT_EQ(integer, 7);
  EXPECT_EQ(absent, 42);
  EXPECT_EQ(number, 2.5);
  EXPECT_EQ(whole, 3);
  EXPECT_TRUE(flag);
  EXPECT_EQ(string, "s");
  EXPECT_THAT(ascending, ElementsAre(1, 2, 8));
  EXPECT_THAT(strings, ElementsAre("a", "b"));
  EXPECT_THAT(lone, ElementsAre("c"));
  EXPECT_EQ(ns, 1'500'000u);
  EXPECT_EQ(bytes, 2u << 20);
}

TEST(TomlReaderTest, KeepsTheFirstErrorAndStopsReading) {
  Document document("a = 99\nb = 99\nc = 1");
  int a = 0;
  int b = 0;
  int c = 0;
  EXPECT_FALSE(document.reader().Integer("a", 0, 10, &a));
  EXPECT_FALSE(document.reader().Integer("b", 0, 10, &b));
  EXPECT_FALSE(document.reader().Integer("c", 0, 10, &c));
  EXPECT_EQ(c, 0);
  EXPECT_EQ(document.reader().Finish().message(), "f.toml:1: a: must be an integer from 0 to 10, not 99");
  EXPECT_EQ(document.reader().Finish().code(), StatusCode::kInvalidArgument);
}

constexpr DurationRule kRule = {.unit = "ms", .low_ns = 1'000, .high_ns = 60'000'000'000};

Result<uint64_t> ReadWait(std::string_view text, const DurationRule& rule = kRule) {
  Document document(text);
  uint64_t ns = 0;
  const bool read = document.reader().Duration("wait", rule, &ns);
  EXPECT_EQ(read, document.reader().Finish().ok());
  if (!read) return Error(document.reader().Finish());
  return ns;
}

TEST(TomlReaderTest, ADurationIsATextWithItsUnitOrANumberUnderTheKeyWithTheUnit) {
  for (const char* text : {"wait = '50ms'", "wait = '0.05s'", "wait = '50000 us'", "wait_ms = 50", "wait_ms = 50.0",
                           "wait_ms = '50ms'", "wait_ms = '0.05s'"}) {
    EXPECT_EQ(ReadWait(text).value_or(0), 50'000'000u) << text;
  }
  EXPECT_EQ(ReadWait("wait = '1us'").value_or(0), 1'000u);
  EXPECT_EQ(ReadWait("wait = '1min'").value_or(0), 60'000'000'000u);
  EXPECT_EQ(ReadWait("wait_ms = 0.001").value_or(0), 1'000u);
}

TEST(TomlReaderTest, ADurationThatIsNoneSaysWhatIsAllowedWithUnits) {
  const auto why = [](std::string_view text) {
    const auto ns = ReadWait(text);
    EXPECT_FALSE(ns) << text;
    return ns ? "" : ns.error().message();
  };
  EXPECT_EQ(why("wait = '2min'"),
            "f.toml:1: wait: must be a duration from 1us to 1min such as \"50ms\", not the string \"2min\"");
  EXPECT_EQ(why("wait_ms = 60001"),
            "f.toml:1: wait_ms: must be a number of ms from 0.001 to 60000 or a duration such as \"50ms\", not 60001");
  EXPECT_THAT(why("wait = 50"), HasSubstr("wait: must be a duration"));
  EXPECT_THAT(why("wait = '50'"), HasSubstr("a number and one of ns, us, ms, s, min, h"));
  EXPECT_THAT(why("wait_ms = '50'"), HasSubstr("a number and one of ns, us, ms, s, min, h"));
  EXPECT_THAT(why("\nwait_ms = 1\nwait = '1ms'"), StartsWith("f.toml:2: wait_ms: means the same as wait"));
  for (const char* text :
       {"wait = ''", "wait = '999ns'", "wait = '-1ms'", "wait = true", "wait = ['1ms']", "wait_ms = 0", "wait_ms = -1",
        "wait_ms = nan", "wait_ms = inf", "wait_ms = -inf", "wait_ms = 1e300", "wait_ms = 9223372036854775807",
        "wait_ms = 1979-05-27", "wait = 'auto'", "wait = '9999999999999999999999h'"}) {
    why(text);
  }
}

TEST(TomlReaderTest, ADurationMayHaveStepsAndBeAuto) {
  constexpr DurationRule kSteps = {.unit = "us", .high_ns = 1'000'000, .step_ns = 1'000, .may_be_auto = true};
  EXPECT_EQ(ReadWait("wait = '7us'", kSteps).value_or(0), 7'000u);
  EXPECT_EQ(ReadWait("wait_us = 7", kSteps).value_or(0), 7'000u);
  for (const char* text : {"wait = 'auto'", "wait_us = -1", "wait_us = 'auto'"}) {
    EXPECT_EQ(ReadWait(text, kSteps).value_or(0), kAutoDuration) << text;
  }
  EXPECT_THAT(ReadWait("wait = '1500ns'", kSteps).error().message(), HasSubstr("in steps of 1us, or \"auto\""));
  EXPECT_THAT(ReadWait("wait_us = 7.5", kSteps).error().message(), HasSubstr("-1 for \"auto\""));
  EXPECT_FALSE(ReadWait("wait_us = -2", kSteps));
  EXPECT_FALSE(ReadWait("wait = -1", kSteps));
}

TEST(TomlReaderTest, UnknownKeysComeBeforeMissingOnesAndGetASuggestion) {
  Document document("\nnmae = \"x\"");
  std::string name;
  document.reader().String("name", &name);
  document.reader().Require("name", "because");
  EXPECT_EQ(document.reader().Finish().message(), "f.toml:2: nmae: unknown key; did you mean \"name\"?");
}

TEST(TomlReaderTest, UnknownKeyWithoutLikenessListsWhatIsAllowed) {
  Document document("zzzzzzzz = 1");
  int value = 0;
  document.reader().Integer("first", 0, 1, &value);
  document.reader().Integer("second", 0, 1, &value);
  EXPECT_EQ(document.reader().Finish().message(), "f.toml:1: zzzzzzzz: unknown key; allowed here: first, second");
}

TEST(TomlReaderTest, MissingRequiredKeyNamesTheTable) {
  Document document("\n\n[table]\nx = 1");
  TableReader table = document.reader().Table("table");
  int x = 0;
  table.Integer("x", 0, 1, &x);
  std::string y;
  table.String("y", &y);
  table.Require("y", "it is needed");
  EXPECT_EQ(table.Finish().message(), "f.toml:3: table.y: is missing; it is needed");
}

TEST(TomlReaderTest, HostileTextStaysOutOfMessages) {
  Document document("s = \"a\\u0007\\nb" + std::string(500, 'x') + "\"\n\"k\\u0007\\n\" = 1");
  int value = 0;
  Document other("\"k\\u0007\\n\" = 1");
  EXPECT_FALSE(document.reader().Integer("s", 0, 1, &value));
  const std::string message = document.reader().Finish().message();
  EXPECT_LT(message.size(), 200u);
  for (const std::string& text : {message, other.reader().Finish().message()}) {
    for (const char c : text) EXPECT_GE(c, ' ') << text;
  }
}

TEST(TomlReaderTest, NearestFindsOnlyLikelyMisspellings) {
  constexpr std::array<std::string_view, 3> kChoices = {"fcfs", "edf", "round_timeout_ms"};
  EXPECT_EQ(Nearest("fcsf", kChoices), "fcfs");
  EXPECT_EQ(Nearest("round_timeout", kChoices), "round_timeout_ms");
  EXPECT_EQ(Nearest("banana", kChoices), "");
  EXPECT_EQ(Nearest("", kChoices), "");
  EXPECT_EQ(Nearest(std::string(100'000, 'x'), kChoices), "");
}

std::string Repeat(std::string_view piece, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += piece;
  return text;
}

TEST(ParseTomlTest, NamesTheLineOfWhatItRefuses) {
  struct BadDocument {
    std::string text;
    std::string location;
    std::string message;
  };
  const std::vector<BadDocument> documents = {
      {"a = 1\nb = \n", "f.toml:2: ", "not valid TOML"},
      {"a = 1\n\na = 2\n", "f.toml:3: ", "'a'"},
      {"[a]\n[b]\n[a]\n", "f.toml:3: ", "'a'"},
      {"\na = 99999999999999999999\n", "f.toml:2: ", "not valid TOML"},
      {"a = \"\xff\"\n", "f.toml:1: ", "beyond ASCII"},
      {std::string("a = \"\0\"\n", 8), "f.toml:1: ", "not valid TOML"},
      {"a = " + std::string(100'000, '['), "f.toml:1: ", "nest"},
      {"a = " + Repeat("{a=", 50'000), "f.toml:1: ", "nest"},
      {"\n" + Repeat("a.", 50'000) + "a = 1", "f.toml:2: ", "dots"},
      {"\na = {" + Repeat("a.", 65), "f.toml:2: ", "dots"},
      {"# \u00e4\na = 'x'\n\u00e4 = 1", "f.toml:3: ", "beyond ASCII"},
      {"a = \"x\\\"\u00e4\"", "f.toml:1: ", "beyond ASCII"},
      {"a = \"\\\u00e4\"", "f.toml:1: ", "beyond ASCII"},
      {"a = 'x # \u00e4'", "f.toml:1: ", "beyond ASCII"},
      {"a = 1[\"\u00e4\"]", "f.toml:1: ", "beyond ASCII"},
      {"\xef\xbb\xbf a = 1 \xef\xbb\xbf", "f.toml:1: ", "beyond ASCII"},
      {"\na = \"\"\"x\"\"\"", "f.toml:2: ", "multi-line"},
      {"a = '''x'''", "f.toml:1: ", "multi-line"},
      {std::string(kMaxTomlBytes + 1, '\n'), "f.toml:1: ", "256 KiB"},
  };
  for (const BadDocument& document : documents) {
    const Result<toml::table> parsed = ParseToml(document.text, "f.toml");
    ASSERT_FALSE(parsed) << document.text.substr(0, 100);
    EXPECT_THAT(parsed.error().message(), StartsWith(document.location));
    EXPECT_THAT(parsed.error().message(), HasSubstr(document.message));
    EXPECT_LT(parsed.error().message().size(), 400u);
  }
}

TEST(ParseTomlTest, AcceptsAnyTextInCommentsAndEscapesInStrings) {
  const std::string dots(200, '.');
  const Result<toml::table> parsed =
      ParseToml("\xef\xbb\xbf# \u00e4 \"\"\" ''' \xff " + dots +
                    "\r\na = \"\\u00e4 # ''' \\\\\" # \u4e2d\nb = 'x\\' # \"\nc = '" + dots + "'",
                "f.toml");
  ASSERT_TRUE(parsed) << parsed.error().message();
  EXPECT_EQ(parsed->get_as<std::string>("a")->get(), "\u00e4 # ''' \\");
  EXPECT_EQ(parsed->get_as<std::string>("b")->get(), "x\\");
  EXPECT_EQ(parsed->get_as<std::string>("c")->get(), dots);
}

TEST(ReadTomlFileTest, RefusesWhatIsNotARegularFile) {
  EXPECT_EQ(ReadTomlFile("/nonexistent/x.toml").error().code(), StatusCode::kNotFound);
  EXPECT_THAT(ReadTomlFile("/dev/zero").error().message(), HasSubstr("regular file"));
  EXPECT_THAT(ReadTomlFile("/tmp").error().message(), HasSubstr("regular file"));
}

TEST(ReadTomlFileTest, ReadsNoMoreThanTheLimitNeeds) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "toml_reader_test_large.toml";
  std::ofstream(path) << std::string(kMaxTomlBytes * 2, ' ');
  const Result<std::string> text = ReadTomlFile(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(text);
  EXPECT_EQ(text->size(), kMaxTomlBytes + 1);
  EXPECT_FALSE(ParseToml(*text, "f.toml"));
}

}  // namespace
}  // namespace abacus
