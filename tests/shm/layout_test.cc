#include "shm/layout.h"

#include <gtest/gtest.h>

#include <cctype>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace abacus {
namespace {

TEST(Layout, NamesEveryStateAndSurvivesNonsense) {
  EXPECT_EQ(WorkerStateName(WorkerState::kServing), "serving");
  // One word each: scripts read them as such.
  for (uint32_t state = 0; state <= static_cast<uint32_t>(WorkerState::kExited); ++state) {
    const std::string_view name = WorkerStateName(static_cast<WorkerState>(state));
    EXPECT_NE(name, "unknown") << state;
    EXPECT_EQ(name.find(' '), std::string_view::npos) << name;
  }
  EXPECT_EQ(WorkerStateName(static_cast<WorkerState>(12345)), "unknown");
}

// --- The byte map of shm/README.md ---------------------------------------------------------------------------------

struct Field {
  std::string name;
  size_t offset = 0;
  size_t size = 0;
};
struct Struct {
  size_t size = 0;
  size_t padding = 0;  // bytes that belong to no member
  std::vector<Field> fields;
};
#define ABACUS_FIELD(type, member) \
  Field { #member, offsetof(type, member), sizeof(type::member) }

// Every struct that the page has a table of, and all its members.
const std::map<std::string, Struct> kStructs = {
    {"SegmentHeader",
     {sizeof(SegmentHeader),
      48,
      {ABACUS_FIELD(SegmentHeader, magic),
       ABACUS_FIELD(SegmentHeader, layout_version),
       ABACUS_FIELD(SegmentHeader, service_count),
       ABACUS_FIELD(SegmentHeader, total_bytes),
       ABACUS_FIELD(SegmentHeader, arena_offset_bytes),
       ABACUS_FIELD(SegmentHeader, arena_bytes),
       ABACUS_FIELD(SegmentHeader, owner_pid),
       ABACUS_FIELD(SegmentHeader, lane_count),
       ABACUS_FIELD(SegmentHeader, owner_start_ticks),
       ABACUS_FIELD(SegmentHeader, started_ns),
       ABACUS_FIELD(SegmentHeader, policy),
       ABACUS_FIELD(SegmentHeader, endpoint),
       ABACUS_FIELD(SegmentHeader, heartbeat_ns),
       ABACUS_FIELD(SegmentHeader, draining),
       ABACUS_FIELD(SegmentHeader, arena_reserved),
       ABACUS_FIELD(SegmentHeader, arena_used_bytes),
       ABACUS_FIELD(SegmentHeader, rejected_messages),
       ABACUS_FIELD(SegmentHeader, dropped_replies),
       ABACUS_FIELD(SegmentHeader, closed_connections),
       ABACUS_FIELD(SegmentHeader, controller_bell)}}},
    {"LaneBlock",
     {sizeof(LaneBlock),
      3640,
      {ABACUS_FIELD(LaneBlock, gate), ABACUS_FIELD(LaneBlock, gpu), ABACUS_FIELD(LaneBlock, predictor)}}},
    {"PredictorStats",
     {sizeof(PredictorStats),
      4,
      {ABACUS_FIELD(PredictorStats, description), ABACUS_FIELD(PredictorStats, trained),
       ABACUS_FIELD(PredictorStats, margin_ppm), ABACUS_FIELD(PredictorStats, error_ppm),
       ABACUS_FIELD(PredictorStats, rounds), ABACUS_FIELD(PredictorStats, rounds_over),
       ABACUS_FIELD(PredictorStats, rounds_untrained), ABACUS_FIELD(PredictorStats, rounds_several),
       ABACUS_FIELD(PredictorStats, factor_ppm), ABACUS_FIELD(PredictorStats, start_ns)}}},
    {"ServiceBlock",
     {sizeof(ServiceBlock),
      92,
      {ABACUS_FIELD(ServiceBlock, name), ABACUS_FIELD(ServiceBlock, worker), ABACUS_FIELD(ServiceBlock, stats)}}},
    {"ServiceStats",
     {sizeof(ServiceStats),
      0,
      {ABACUS_FIELD(ServiceStats, accepted), ABACUS_FIELD(ServiceStats, replies),
       ABACUS_FIELD(ServiceStats, violations), ABACUS_FIELD(ServiceStats, queued), ABACUS_FIELD(ServiceStats, running),
       ABACUS_FIELD(ServiceStats, ranges), ABACUS_FIELD(ServiceStats, restarts), ABACUS_FIELD(ServiceStats, jobs),
       ABACUS_FIELD(ServiceStats, job_rows), ABACUS_FIELD(ServiceStats, job_queries),
       ABACUS_FIELD(ServiceStats, padding_rows), ABACUS_FIELD(ServiceStats, latency)}}},
    {"WorkerSlot",
     {sizeof(WorkerSlot), 108, {ABACUS_FIELD(WorkerSlot, service),      ABACUS_FIELD(WorkerSlot, lane),
                                ABACUS_FIELD(WorkerSlot, generation),   ABACUS_FIELD(WorkerSlot, bucket_count),
                                ABACUS_FIELD(WorkerSlot, state),        ABACUS_FIELD(WorkerSlot, pid),
                                ABACUS_FIELD(WorkerSlot, heartbeat_ns), ABACUS_FIELD(WorkerSlot, ranges_run),
                                ABACUS_FIELD(WorkerSlot, busy_ns),      ABACUS_FIELD(WorkerSlot, device),
                                ABACUS_FIELD(WorkerSlot, device_name),  ABACUS_FIELD(WorkerSlot, libraries),
                                ABACUS_FIELD(WorkerSlot, structure),    ABACUS_FIELD(WorkerSlot, measured_digest),
                                ABACUS_FIELD(WorkerSlot, error),        ABACUS_FIELD(WorkerSlot, error_code),
                                ABACUS_FIELD(WorkerSlot, ranges),       ABACUS_FIELD(WorkerSlot, command_bell),
                                ABACUS_FIELD(WorkerSlot, commands),     ABACUS_FIELD(WorkerSlot, completions),
                                ABACUS_FIELD(WorkerSlot, queries)}}},
    {"RangeTableEntry",
     {sizeof(RangeTableEntry),
      0,
      {ABACUS_FIELD(RangeTableEntry, operators), ABACUS_FIELD(RangeTableEntry, cut_count),
       ABACUS_FIELD(RangeTableEntry, solo_ns), ABACUS_FIELD(RangeTableEntry, cuts),
       ABACUS_FIELD(RangeTableEntry, reserved)}}},
    {"Command",
     {sizeof(Command),
      0,
      {ABACUS_FIELD(Command, kind), ABACUS_FIELD(Command, flags), ABACUS_FIELD(Command, job_id),
       ABACUS_FIELD(Command, bucket), ABACUS_FIELD(Command, first), ABACUS_FIELD(Command, last),
       ABACUS_FIELD(Command, gate), ABACUS_FIELD(Command, query_table), ABACUS_FIELD(Command, query_count),
       ABACUS_FIELD(Command, sent_ns)}}},
    {"Completion",
     {sizeof(Completion),
      0,
      {ABACUS_FIELD(Completion, job_id), ABACUS_FIELD(Completion, first), ABACUS_FIELD(Completion, last),
       ABACUS_FIELD(Completion, status), ABACUS_FIELD(Completion, fatal), ABACUS_FIELD(Completion, started_ns),
       ABACUS_FIELD(Completion, ended_ns), ABACUS_FIELD(Completion, gpu_started_ns),
       ABACUS_FIELD(Completion, gpu_ended_ns)}}},
    {"JobQuery",
     {sizeof(JobQuery),
      0,
      {ABACUS_FIELD(JobQuery, block_offset), ABACUS_FIELD(JobQuery, block_bytes), ABACUS_FIELD(JobQuery, rows),
       ABACUS_FIELD(JobQuery, sequence), ABACUS_FIELD(JobQuery, first_row), ABACUS_FIELD(JobQuery, query_rows)}}},
};

// A member that the table above does not list leaves a hole in it.
TEST(Layout, TheTestKnowsEveryMember) {
  for (const auto& [name, layout] : kStructs) {
    size_t in_members = 0, end = 0;
    for (const Field& field : layout.fields) {
      EXPECT_GE(field.offset, end) << name << "::" << field.name << " is listed out of order";
      end = field.offset + field.size;
      in_members += field.size;
    }
    EXPECT_EQ(in_members + layout.padding, layout.size) << name;
  }
}

struct Row {
  std::vector<std::string> cells;
};

std::string Trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return std::string(text);
}

// The text up to the first `separator`; `rest` is what follows it.
std::string_view Head(std::string_view text, char separator, std::string_view* rest) {
  const size_t at = text.find(separator);
  *rest = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  return text.substr(0, at);
}

// Rows of the tables under each "## " heading, in order, whose first cell begins with a digit.
std::map<std::string, std::vector<Row>> Tables(std::string_view page) {
  std::map<std::string, std::vector<Row>> tables;
  std::string section;
  while (!page.empty()) {
    const std::string_view line = Head(page, '\n', &page);
    if (line.starts_with("## ")) section = Trimmed(line.substr(3));
    if (!line.starts_with("| ") || std::isdigit(static_cast<unsigned char>(line[2])) == 0) continue;
    Row row;
    for (std::string_view cells = line.substr(1); !cells.empty();)
      row.cells.push_back(Trimmed(Head(cells, '|', &cells)));
    tables[section].push_back(row);
  }
  return tables;
}

// The numbers of a cell: "4,096 + i * 28,864" has two.
std::vector<size_t> Numbers(const std::string& cell) {
  std::vector<size_t> numbers;
  std::string digits;
  for (const char c : cell + " ") {
    if (std::isdigit(static_cast<unsigned char>(c)) != 0) {
      digits += c;
    } else if (c != ',' && !digits.empty()) {
      numbers.push_back(0);
      std::from_chars(digits.data(), digits.data() + digits.size(), numbers.back());
      digits.clear();
    }
  }
  return numbers;
}

// What stands between the first two backticks of a cell.
std::string Quoted(const std::string& cell) {
  std::string_view rest;
  Head(cell, '`', &rest);
  return std::string(Head(rest, '`', &rest));
}

class ByteMap : public testing::Test {
 protected:
  void SetUp() override {
    const auto page = ReadWholeFile(std::filesystem::path(ABACUS_SOURCE_DIR) / "shm" / "README.md");
    ASSERT_TRUE(page) << page.error().message();
    page_ = *page;
    tables_ = Tables(page_);
  }
  std::string page_;
  std::map<std::string, std::vector<Row>> tables_;
};

TEST_F(ByteMap, StatesItsVersion) {
  std::string words;  // on one line
  for (const char c : page_) words += c == '\n' ? ' ' : c;
  EXPECT_NE(words.find("layout version " + std::to_string(kLayoutVersion) + ","), std::string::npos);
}

TEST_F(ByteMap, PlacesEveryMember) {
  for (const auto& [name, layout] : kStructs) {
    const std::vector<Field>& fields = layout.fields;
    const std::vector<Row>& rows = tables_[name];
    ASSERT_EQ(rows.size(), fields.size()) << name;
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_GE(rows[i].cells.size(), 3u) << name << ", row " << i;
      EXPECT_EQ(Quoted(rows[i].cells[2]), fields[i].name) << name << ", row " << i;
      EXPECT_EQ(Numbers(rows[i].cells[0]), std::vector{fields[i].offset}) << name << "::" << fields[i].name;
      EXPECT_EQ(Numbers(rows[i].cells[1]), std::vector{fields[i].size}) << name << "::" << fields[i].name;
    }
  }
}

TEST_F(ByteMap, PlacesEveryPartOfTheSegment) {
  const auto array = [](size_t begin, size_t size) { return std::vector<size_t>{begin, size}; };
  const std::vector<std::pair<std::string, std::vector<size_t>>> parts = {
      {"SegmentHeader", {0}},
      {"LaneBlock", array(LaneBlockOffset(LaneId(0)), sizeof(LaneBlock))},
      {"ServiceBlock", array(ServiceBlockOffset(ServiceId(0)), sizeof(ServiceBlock))},
      {"WorkerSlot", array(WorkerSlotOffset(WorkerId(0)), sizeof(WorkerSlot))},
      {"", {ArenaOffset()}}};
  const std::vector<Row>& rows = tables_["Segment"];
  ASSERT_EQ(rows.size(), parts.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& [name, numbers] = parts[i];
    ASSERT_GE(rows[i].cells.size(), 3u);
    EXPECT_EQ(Quoted(rows[i].cells[2]), name);
    EXPECT_EQ(Numbers(rows[i].cells[0]), numbers) << name;
  }
  EXPECT_EQ(Numbers(rows[0].cells[1]), std::vector{kHeaderBytes});
  EXPECT_NE(rows[0].cells[2].find("(" + std::to_string(sizeof(SegmentHeader)) + " used)"), std::string::npos);
  for (size_t i = 1; i <= 3; ++i) EXPECT_EQ(Numbers(rows[i].cells[1]), std::vector{parts[i].second[1]}) << i;
}

}  // namespace
}  // namespace abacus
