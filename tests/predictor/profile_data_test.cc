#include "predictor/profile_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/predictor/small_predictor.h"

namespace abacus {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

const std::string kFirstLine =
    R"({"abacus_profile":1,"device":"d","driver":"1","libraries":"l","seed":3,"models":[)"
    R"({"name":"x","buckets":[{"batch":1,"sequence":0,"operators":4}]},)"
    R"({"name":"y","buckets":[{"batch":2,"sequence":8,"operators":6},{"batch":4,"sequence":8,"operators":6}]}]})"
    "\n";

std::string Group(const std::string& ranges, const std::string& us, uint64_t index = 0) {
  return R"({"group":{"index":)" + std::to_string(index) + R"(,"ranges":)" + ranges + R"(,"us":)" + us +
         R"(,"spread":0.01,"repetitions":3}})" + "\n";
}
const std::string kPair = "[[0,0,0,4],[1,1,2,6]]";

ProfileData Parsed(const std::string& text) {
  auto data = ParseProfile(text, "p");
  EXPECT_TRUE(data) << data.error().message();
  return data ? std::move(*data) : ProfileData();
}
// The message of a refusal; "accepted" when there is none.
std::string Refusal(const std::string& text) {
  const auto data = ParseProfile(text, "p");
  if (data) return "accepted";
  EXPECT_EQ(data.error().code(), StatusCode::kInvalidArgument);
  return data.error().message();
}

class ProfileFileTest : public testing::Test {
 protected:
  ProfileFileTest() : directory_(fs::temp_directory_path() / ("profile-" + std::to_string(getpid()))) {}
  ~ProfileFileTest() override { fs::remove_all(directory_); }
  std::string Content() const {
    std::stringstream text;
    text << std::ifstream(path_).rdbuf();
    return text.str();
  }
  const fs::path directory_;
  const fs::path path_ = directory_ / "sub" / "x.profile";
};

TEST_F(ProfileFileTest, ComesBackExactly) {
  ProfileData data = test::SmallProfile();
  data.models[0].structure = "0123abcd";
  {
    auto writer = ProfileWriter::Create(path_, data);
    ASSERT_TRUE(writer) << writer.error().message();
    for (uint32_t m = 0; m < data.models.size(); ++m) {
      for (uint32_t b = 0; b < data.models[m].buckets.size(); ++b) {
        ASSERT_TRUE(writer->Solo(m, b, data.models[m].buckets[b]).ok());
      }
    }
    ASSERT_TRUE(writer->Group({17, {{0, 1, 0, 8}, {2, 0, 1, 3}}, 812.4000000001, 0.004, 3}).ok());
    ASSERT_TRUE(writer->Skip(18, "the worker \"died\"\n\xff").ok());
    ASSERT_TRUE(writer->Clock({12.3, 1980, 2619, 41}).ok());
  }
  const auto read = ReadProfile(path_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_TRUE(SameSubject(*read, data).ok());
  EXPECT_EQ(read->driver, data.driver);
  EXPECT_EQ(read->seed, data.seed);
  for (size_t m = 0; m < data.models.size(); ++m) {
    EXPECT_EQ(read->models[m].structure, data.models[m].structure);
    for (size_t b = 0; b < data.models[m].buckets.size(); ++b) {
      EXPECT_EQ(read->models[m].buckets[b].operators_at, data.models[m].buckets[b].operators_at);
      EXPECT_EQ(read->models[m].buckets[b].us, data.models[m].buckets[b].us);
    }
  }
  ASSERT_EQ(read->groups.size(), 1u);
  const GroupSample& group = read->groups[0];
  EXPECT_EQ(group.index, 17u);
  EXPECT_EQ(group.us, 812.4000000001);
  EXPECT_EQ(group.spread, 0.004);
  EXPECT_EQ(group.repetitions, 3u);
  ASSERT_EQ(group.ranges.size(), 2u);
  EXPECT_EQ(group.ranges[1].model, 2u);
  EXPECT_EQ(group.ranges[0].bucket, 1u);
  EXPECT_EQ(group.ranges[1].first, 1u);
  EXPECT_EQ(group.ranges[1].last, 3u);
  ASSERT_EQ(read->clocks.size(), 1u);
  EXPECT_EQ(read->clocks[0].t_s, 12.3);
  EXPECT_EQ(read->clocks[0].temperature_c, 41);
  EXPECT_EQ(read->skipped, 1u);
  EXPECT_EQ(read->next_index(), 19u);
  EXPECT_THAT(read->warnings, IsEmpty());
}

TEST_F(ProfileFileTest, ACutOffLastLineIsLeftOutAndCutByAppend) {
  { ASSERT_TRUE(ProfileWriter::Create(path_, test::SmallProfile())); }
  const std::string whole = Content();
  std::ofstream(path_, std::ios::app) << R"({"group":{"index":5,"ran)";
  const auto read = ReadProfile(path_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_THAT(read->warnings, ElementsAre(AllOf(HasSubstr("x.profile:2: "), HasSubstr("cut off"))));
  {
    auto writer = ProfileWriter::Append(path_);
    ASSERT_TRUE(writer) << writer.error().message();
    EXPECT_EQ(Content(), whole);
    ASSERT_TRUE(writer->Skip(6, "why").ok());
  }
  EXPECT_THAT(Content(), StartsWith(whole));
  const auto again = ReadProfile(path_);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->next_index(), 7u);
  EXPECT_THAT(again->warnings, IsEmpty());
}

TEST_F(ProfileFileTest, ACutOffLineIsLeftOutEvenWhereOnlyItsEndIsMissing) {
  const ProfileData data = Parsed(kFirstLine + Group(kPair, "5", 1) + R"({"skip":{"index":2,"why":"w"}})");
  EXPECT_EQ(data.skipped, 0u);
  EXPECT_THAT(data.warnings, ElementsAre(HasSubstr("p:3: ")));
  // Append would cut the only line there is: refused before that.
  EXPECT_THAT(Refusal(kFirstLine.substr(0, kFirstLine.size() - 1)), AllOf(StartsWith("p:1: "), HasSubstr("cut off")));
}

TEST_F(ProfileFileTest, SaysWhichFileCannotBeReadOrWritten) {
  const auto missing = ReadProfile(path_);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.error().message(), AllOf(HasSubstr("x.profile"), HasSubstr("No such file")));
  fs::create_directories(path_);
  EXPECT_FALSE(ReadProfile(path_)) << "a folder";
  EXPECT_FALSE(ProfileWriter::Append(path_));
  const auto folder = ProfileWriter::Create(path_, test::SmallProfile());
  ASSERT_FALSE(folder);
  EXPECT_THAT(folder.error().message(), HasSubstr("x.profile: cannot be written"));
}

TEST(ParseProfile, BadTimesAreLeftOutWithAWarningThatNamesTheLine) {
  for (const char* us : {"null", "0", "-1", "\"5\"", "[]", "-1e300"}) {
    const ProfileData data = Parsed(kFirstLine + Group(kPair, "7.5", 1) + Group(kPair, us, 2) + Group(kPair, "8", 3));
    EXPECT_THAT(data.warnings, ElementsAre(AllOf(StartsWith("p:3: "), HasSubstr("time")))) << us;
    EXPECT_EQ(data.groups.size(), 2u);
    EXPECT_EQ(data.next_index(), 4u);
  }
  // A writer makes null of NaN.
  const ProfileData no_time = Parsed(kFirstLine + R"({"group":{"index":0,"ranges":[[0,0,0,4]],"repetitions":3}})"
                                                  "\n");
  EXPECT_EQ(no_time.groups.size(), 0u);
  EXPECT_EQ(no_time.warnings.size(), 1u);
  // The spread does not matter that much.
  const ProfileData spread =
      Parsed(kFirstLine + R"({"group":{"index":0,"ranges":[[0,0,0,4]],"us":5,"spread":null,"repetitions":3}})"
                          "\n");
  ASSERT_EQ(spread.groups.size(), 1u);
  EXPECT_EQ(spread.groups[0].spread, 0);
}

TEST(ParseProfile, RangesThatTheirModelsDoNotHaveAreLeftOut) {
  for (const char* ranges :
       {"[[2,0,0,4]]", "[[0,1,0,4]]", "[[0,0,0,5]]", "[[0,0,2,2]]", "[[0,0,3,2]]", "[[70,0,0,1]]"}) {
    const ProfileData data = Parsed(kFirstLine + Group(ranges, "5"));
    EXPECT_THAT(data.warnings, ElementsAre(AllOf(StartsWith("p:2: "), HasSubstr("does not have")))) << ranges;
    EXPECT_THAT(data.groups, IsEmpty());
  }
  EXPECT_THAT(Parsed(kFirstLine + Group("[[1,0,0,6],[1,1,0,6]]", "5")).warnings, ElementsAre(HasSubstr("one model")));
  EXPECT_THAT(Parsed(kFirstLine + Group("[]", "5")).warnings, ElementsAre(HasSubstr("no ranges")));
  std::string many = kFirstLine;
  for (uint64_t i = 0; i < 100; ++i) many += Group(kPair, "0", i);
  EXPECT_EQ(Parsed(many).warnings.size(), 20u) << "more say nothing new";
}

TEST(ParseProfile, AnythingElseIsAnErrorThatNamesTheLine) {
  const std::vector<std::string> lines = {
      "",
      "x",
      "[]",
      "{}",
      R"({"solo":{},"skip":{}})",
      R"({"gruop":{"index":1}})",
      R"({"group":7})",
      R"({"skip":[]})",
      R"({"skip":{"index":-1}})",
      R"({"skip":{"index":1.5}})",
      R"({"skip":{"index":18446744073709551615}})",
      R"({"clock":{"t_s":1,"sm_mhz":null,"memory_mhz":1,"temperature_c":1}})",
      R"({"clock":{"t_s":1}})",
      R"({"solo":{"model":2,"bucket":0,"operators":[0,4],"us":[0,5]}})",
      R"({"solo":{"model":0,"bucket":1,"operators":[0,4],"us":[0,5]}})",
      R"({"solo":{"model":0,"bucket":0,"operators":[0,3],"us":[0,5]}})",
      R"({"solo":{"model":0,"bucket":0,"operators":[0,4],"us":[5,0]}})",
      R"({"solo":{"model":0,"bucket":0,"operators":[0,4],"us":[0,0]}})",
      R"({"solo":{"model":0,"bucket":0,"operators":[0,4],"us":[0,null]}})",
      R"({"solo":{"model":0,"bucket":0,"operators":[0,4],"us":[0,5,6]}})",
      R"({"group":{"index":1,"ranges":[[0,0,4]],"us":5,"spread":0,"repetitions":3}})",
      R"({"group":{"index":1,"ranges":[[0,0,-1,4]],"us":5,"spread":0,"repetitions":3}})",
      R"({"group":{"index":1,"ranges":{},"us":5,"spread":0,"repetitions":3}})",
      R"({"group":{"ranges":[],"us":5,"spread":0,"repetitions":3}})",
      R"({"group":{"index":1,"ranges":[[0,0,0,4]],"us":1e999,"spread":0,"repetitions":3}})",
  };
  for (const std::string& line : lines) {
    EXPECT_THAT(Refusal(kFirstLine + Group(kPair, "5") + line + "\n" + Group(kPair, "6")), StartsWith("p:3: ")) << line;
  }
  EXPECT_THAT(Refusal(kFirstLine + lines[5] + "\n"), HasSubstr("unknown kind of line \"gruop\""));
}

TEST(ParseProfile, TheFirstLineMustBeAProfiles) {
  const auto with = [](const std::string& from, const std::string& to) {
    std::string line = kFirstLine;
    line.replace(line.find(from), from.size(), to);
    return Refusal(line);
  };
  EXPECT_EQ(Refusal(kFirstLine), "accepted");
  EXPECT_THAT(Refusal(""), HasSubstr("empty"));
  EXPECT_THAT(Refusal("abacus-predictor 1 2 3\n{}"), HasSubstr("p:1: not a profile"));
  EXPECT_THAT(Refusal("{}\n"), HasSubstr("not a profile"));
  EXPECT_THAT(Refusal(kFirstLine.substr(1)), HasSubstr("not a profile"));
  EXPECT_THAT(with("\"abacus_profile\":1", "\"abacus_profile\":2"), HasSubstr("another version than 1"));
  EXPECT_THAT(with("\"abacus_profile\":1", "\"abacus_profile\":\"1\""), HasSubstr("another version"));
  EXPECT_THAT(with("\"name\":\"y\"", "\"name\":\"x\""), HasSubstr("the name \"x\" stands twice"));
  EXPECT_THAT(with("\"device\":\"d\",", ""), HasSubstr("\"device\" is missing"));
  EXPECT_THAT(with("\"d\"", "7"), HasSubstr("\"device\" must be a short text"));
  EXPECT_THAT(with("\"d\"", "\"" + std::string(1001, 'd') + "\""), HasSubstr("\"device\" must be a short text"));
  EXPECT_THAT(with("\"seed\":3", "\"seed\":-3"), HasSubstr("seed"));
  EXPECT_THAT(with("\"batch\":1", "\"batch\":0"), HasSubstr("model 0, bucket 0"));
  EXPECT_THAT(with("\"operators\":4", "\"operators\":0"), HasSubstr("must not be 0"));
  EXPECT_THAT(with("\"operators\":4", "\"operators\":4000000"), HasSubstr("operators"));
}

TEST(ProfileData, TheNextIndexFollowsGroupsAndSkips) {
  ProfileData data;
  EXPECT_EQ(data.next_index(), 0u);
  data.skipped = 1;  // of index 0
  EXPECT_EQ(data.next_index(), 1u);
  data.groups.push_back({5, {}, 1, 0, 1});
  data.groups.push_back({3, {}, 1, 0, 1});
  EXPECT_EQ(data.next_index(), 6u);
  data.last_skipped_index = 9;
  EXPECT_EQ(data.next_index(), 10u);
}

TEST(BucketProfile, TimesLieOnLinesBetweenMeasuredPoints) {
  const BucketProfile bucket{1, 0, 8, {0, 2, 8}, {10, 50, 110}};
  const std::vector<double> expected = {10, 30, 50, 60, 70, 80, 90, 100, 110, 110};
  for (uint32_t op = 0; op < expected.size(); ++op) EXPECT_DOUBLE_EQ(bucket.PrefixUs(op), expected[op]) << op;
  EXPECT_EQ(bucket.whole_us(), 110);
  EXPECT_FALSE(BucketProfile().measured());
}

TEST(SameSubject, NamesEachDifference) {
  const auto difference = [](const std::function<void(ProfileData*)>& change) {
    ProfileData changed = test::SmallProfile();
    change(&changed);
    const Status forth = SameSubject(test::SmallProfile(), changed), back = SameSubject(changed, test::SmallProfile());
    EXPECT_EQ(forth.ok(), back.ok());
    return forth.ToString();
  };
  EXPECT_EQ(difference([](auto* d) { d->driver = "other", d->seed = 8, d->models[0].buckets[0].us.clear(); }), "OK");
  EXPECT_THAT(difference([](auto* d) { d->device = "B200"; }), AllOf(HasSubstr("device"), HasSubstr("B200")));
  EXPECT_THAT(difference([](auto* d) { d->libraries = "cuda 13"; }), HasSubstr("libraries"));
  EXPECT_THAT(difference([](auto* d) { d->models.pop_back(); }), HasSubstr("number of models"));
  EXPECT_THAT(difference([](auto* d) { d->models[1].name = "q"; }), AllOf(HasSubstr("model 1"), HasSubstr("\"q\"")));
  EXPECT_EQ(difference([](auto* d) { d->models[0].structure = "0123"; }), "OK") << "the other one does not know it";
  EXPECT_THAT(difference([](auto* d) { d->models[0].buckets.pop_back(); }), HasSubstr("buckets or operators of a"));
  EXPECT_THAT(difference([](auto* d) { d->models[0].buckets[1].batch = 5; }), HasSubstr("of a"));
  EXPECT_THAT(difference([](auto* d) { d->models[1].buckets[0].sequence = 8; }), HasSubstr("of b"));
  EXPECT_THAT(difference([](auto* d) { d->models[2].buckets[0].operators = 5; }), HasSubstr("of c"));
}

TEST(SameSubject, ComparesStructuresThatBothHave) {
  ProfileData one = test::SmallProfile(), other = test::SmallProfile();
  one.models[1].structure = "0123";
  other.models[1].structure = "4567";
  EXPECT_THAT(SameSubject(one, other).message(), AllOf(HasSubstr("structure of b"), HasSubstr("4567")));
  other.models[1].structure = "0123";
  EXPECT_TRUE(SameSubject(one, other).ok());
}

}  // namespace
}  // namespace abacus
