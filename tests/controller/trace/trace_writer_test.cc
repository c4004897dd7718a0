#include "controller/trace/trace_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

namespace abacus {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class TraceWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/trace_writer_test.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Writes and reads back; fails the test when the file is not JSON.
  json Written(const std::vector<TraceEvent>& events,
               const TraceSubject& subject = {"unit", {"image", "text"}, {"0"}, 100}) {
    const std::filesystem::path path = folder_ / "trace.json";
    const Status status = WriteTrace(events, subject, path);
    EXPECT_TRUE(status.ok()) << status.message();
    std::ifstream file(path);
    json trace = json::parse(file, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(trace.is_discarded());
    return trace;
  }

  std::filesystem::path folder_;
};

TraceEvent Round(uint64_t number, uint64_t begin_ns, uint64_t end_ns, uint64_t predicted_ns) {
  return {.kind = TraceEvent::kRound,
          .trained = true,
          .ranges = 2,
          .round = number,
          .begin_ns = begin_ns,
          .end_ns = end_ns,
          .predicted_ns = predicted_ns,
          .margin_ns = 500};
}

TraceEvent Range(uint32_t service, uint64_t round, uint64_t begin_ns, uint64_t end_ns) {
  return {.kind = TraceEvent::kRange,
          .service = ServiceId(service),
          .bucket = 3,
          .first = 4,
          .last = 9,
          .queries = 3,
          .rows = 5,
          .bucket_rows = 8,
          .round = round,
          .id = 77,
          .begin_ns = begin_ns,
          .end_ns = end_ns};
}

TraceEvent Query(uint32_t service, uint64_t begin_ns, uint64_t end_ns) {
  return {.kind = TraceEvent::kQuery,
          .status = StatusCode::kDeadlineExceeded,
          .service = ServiceId(service),
          .id = 5,
          .order = 40,
          .begin_ns = begin_ns,
          .end_ns = end_ns,
          .deadline_ns = begin_ns + 2'000};
}

// Names of the tracks by tid.
std::map<int, std::string> Tracks(const json& trace) {
  std::map<int, std::string> tracks;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") tracks[event["tid"]] = event["args"]["name"];
  }
  return tracks;
}

std::vector<json> Slices(const json& trace, const std::string& track) {
  const std::map<int, std::string> tracks = Tracks(trace);
  std::vector<json> slices;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == "X" && tracks.at(event["tid"]) == track) slices.push_back(event);
  }
  return slices;
}

TEST_F(TraceWriterTest, AnEmptyTraceNamesItsTracks) {
  const json trace = Written({});
  EXPECT_EQ(trace["otherData"], (json{{"controller", "unit"}, {"trace_events", 100}}));
  EXPECT_EQ(trace["traceEvents"][0]["args"]["name"], "abacus unit");
  std::vector<std::string> names;
  for (const auto& [tid, name] : Tracks(trace)) names.push_back(name);
  EXPECT_THAT(names, ::testing::ElementsAre("rounds predicted", "rounds", "image", "text"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "trace.json.new"));
}

TEST_F(TraceWriterTest, RoundsRangesAndQueriesHaveTheirFigures) {
  TraceEvent range = Range(1, 8, 1'002'000, 1'010'000);
  range.gpu_started_ns = 500;
  range.gpu_ended_ns = 8'000;
  const json trace = Written({Query(0, 1'000'000, 1'003'500), range, Round(8, 1'002'000, 1'010'000, 10'000)});

  const std::vector<json> rounds = Slices(trace, "rounds"), predicted = Slices(trace, "rounds predicted");
  ASSERT_EQ(rounds.size(), 1u);
  EXPECT_EQ(rounds[0]["name"], "round 8");
  EXPECT_EQ(rounds[0]["ts"], 2.0) << "since the earliest event, the query";
  EXPECT_EQ(rounds[0]["dur"], 8.0);
  const json& args = rounds[0]["args"];
  EXPECT_EQ(args["ranges"], 2);
  EXPECT_EQ(args["trained"], true);
  EXPECT_DOUBLE_EQ(args["actual_us"], 8);
  EXPECT_DOUBLE_EQ(args["predicted_us"], 10);
  EXPECT_DOUBLE_EQ(args["margin_us"], 0.5);
  EXPECT_NEAR(args["error_percent"], -20, 1e-9);
  ASSERT_EQ(predicted.size(), 1u);
  EXPECT_EQ(predicted[0]["ts"], 2.0);
  EXPECT_EQ(predicted[0]["dur"], 10.0);

  const std::vector<json> ranges = Slices(trace, "text");
  ASSERT_EQ(ranges.size(), 1u);
  EXPECT_EQ(ranges[0]["name"], "bucket 3 [4, 9)");
  EXPECT_EQ(ranges[0]["args"]["gpu_us"], 7.5);
  EXPECT_EQ(ranges[0]["args"]["job"], 77);
  EXPECT_EQ(ranges[0]["args"]["queries"], 3);
  EXPECT_EQ(ranges[0]["args"]["rows"], 5);
  EXPECT_EQ(ranges[0]["args"]["bucket_rows"], 8) << "3 rows of padding";
  EXPECT_EQ(ranges[0]["args"]["round"], 8);
  EXPECT_EQ(ranges[0]["args"]["status"], "OK");
  EXPECT_EQ(ranges[0]["args"]["gpu_ended_ns"].get<uint64_t>() - ranges[0]["args"]["gpu_started_ns"].get<uint64_t>(),
            7500u);
  EXPECT_THAT(Slices(trace, "image"), ::testing::IsEmpty());

  std::vector<json> queries;
  for (const json& event : trace["traceEvents"]) {
    if (event.value("cat", "") == "query") queries.push_back(event);
  }
  ASSERT_EQ(queries.size(), 2u);
  EXPECT_EQ(queries[0]["ph"], "b");
  EXPECT_EQ(queries[1]["ph"], "e");
  EXPECT_EQ(queries[0]["id"], queries[1]["id"]);
  EXPECT_EQ(queries[0]["name"], "queries of image");
  EXPECT_EQ(queries[0]["ts"], 0.0);
  EXPECT_EQ(queries[1]["ts"], 3.5);
  EXPECT_EQ(
      queries[0]["args"],
      (json{{"query", 5}, {"order", 40}, {"status", "DEADLINE_EXCEEDED"}, {"latency_us", 3.5}, {"deadline_us", 2.0}}));
}

TEST_F(TraceWriterTest, ARoundSaysWhatItWasChosenFor) {
  TraceEvent round = Round(1, 0, 1'000, 900);
  round.service = ServiceId(1);
  round.id = 5;
  round.order = 40;
  round.worth_per_time = 1.25f;
  const json trace = Written({round, Round(2, 1'000, 2'000, 900)});
  const std::vector<json> rounds = Slices(trace, "rounds");
  ASSERT_EQ(rounds.size(), 2u);
  EXPECT_EQ(rounds[0]["args"]["urgent_query"], 5);
  EXPECT_EQ(rounds[0]["args"]["urgent_order"], 40) << "as its query has it: ids of clients may be the same";
  EXPECT_EQ(rounds[0]["args"]["urgent_service"], "text");
  EXPECT_EQ(rounds[0]["args"]["worth_per_time"], 1.25);
  for (const char* key : {"urgent_query", "urgent_order", "urgent_service", "worth_per_time"}) {
    EXPECT_FALSE(rounds[1]["args"].contains(key)) << key << ": its policy did not say";
  }
}

TEST_F(TraceWriterTest, SlicesOfATrackNeverOverlap) {
  std::vector<TraceEvent> events;
  for (uint64_t i = 1; i <= 50; ++i) {
    const uint64_t begin_ns = i * 1'000;
    // Every other prediction reaches into the next round, one of them over several.
    const uint64_t predicted_ns = i == 20 ? 3'500 : i % 2 == 0 ? 1'100 : 900;
    events.push_back(Range(0, i, begin_ns, begin_ns + 1'000));
    events.push_back(Range(0, i, begin_ns, begin_ns + 1'000));  // a worker out of step
    events.push_back(Round(i, begin_ns, begin_ns + 1'000, predicted_ns));
  }
  const json trace = Written(events);
  std::map<int, double> end_us;
  size_t slices = 0;
  double longest_us = 0;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++slices;
    EXPECT_GE(event["ts"].get<double>(), end_us[event["tid"]] - 1e-6) << event;
    EXPECT_GE(event["dur"].get<double>(), 0) << event;
    end_us[event["tid"]] = event["ts"].get<double>() + event["dur"].get<double>();
    longest_us = std::max(longest_us, event["dur"].get<double>());
  }
  EXPECT_EQ(slices, 200u);
  EXPECT_EQ(longest_us, 3.5) << "no prediction is cut short";
}

TEST_F(TraceWriterTest, ARoundWithoutAPredictionHasNoPredictedSlice) {
  const json trace = Written({Round(1, 0, 1'000, 0)});
  EXPECT_THAT(Slices(trace, "rounds predicted"), ::testing::IsEmpty());
  EXPECT_EQ(Slices(trace, "rounds")[0]["args"], (json{{"ranges", 2}, {"actual_us", 1.0}}));
}

TEST_F(TraceWriterTest, EachLaneHasItsOwnRounds) {
  TraceEvent other = Round(1, 2'000, 9'000, 5'000);
  other.lane = LaneId(1);
  const json trace = Written({Round(1, 1'000, 8'000, 4'000), other}, {"unit", {"image"}, {"0", "GPU-7"}, 100});
  ASSERT_EQ(Slices(trace, "GPU 0: rounds").size(), 1u);
  ASSERT_EQ(Slices(trace, "GPU GPU-7: rounds").size(), 1u);
  EXPECT_EQ(Slices(trace, "GPU GPU-7: rounds predicted")[0]["dur"], 5.0);
}

TEST_F(TraceWriterTest, NamesAreEscaped) {
  const std::string name = "a\"b\\c\n\x01\xff";
  const json trace = Written({Range(0, 0, 0, 10), Query(0, 0, 10)}, {name, {name}, {"0"}, 1});
  EXPECT_THAT(Tracks(trace)[12], HasSubstr("a\"b\\c\n\x01"));
  EXPECT_THAT(std::string(trace["otherData"]["controller"]), HasSubstr("a\"b\\c"));
}

TEST_F(TraceWriterTest, AFileThatCannotBeWrittenIsNamed) {
  const Status status = WriteTrace({}, {"unit", {}, {"0"}, 0}, folder_ / "nowhere" / "trace.json");
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("nowhere/trace.json"));
}

}  // namespace
}  // namespace abacus
