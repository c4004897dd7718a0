#include "client/arrival_trace.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <unordered_map>

#include "base/file.h"
#include "base/text.h"

namespace abacus {
namespace {

constexpr std::array<std::string_view, 4> kColumns = {"at_s", "service", "rows", "sequence"};
constexpr double kLongestS = 1e9;  // some 30 years: far from the end of the nanoseconds

std::string_view Trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> Fields(std::string_view line) {
  std::vector<std::string_view> fields;
  const auto commas = static_cast<size_t>(std::count(line.begin(), line.end(), ','));
  for (size_t i = 0; i <= commas; ++i) fields.push_back(Trim(TakePart(&line, ',')));
  return fields;
}

// Empty: keeps what *value is.
bool ReadCount(std::string_view text, uint32_t* value) {
  if (text.empty()) return true;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

class Reader {
 public:
  explicit Reader(const std::string& source) : source_(source) {}

  Status Line(std::string_view line) {
    ++number_;
    line = Trim(line);
    if (number_ == 1 && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);  // as spreadsheets write it
    if (line.empty() || line.front() == '#') return Status::Ok();
    const std::vector<std::string_view> fields = Fields(line);
    return columns_ == 0 ? Header(fields) : Arrival(fields);
  }
  // After the last line.
  Result<ArrivalTrace> Finish() {
    if (columns_ == 0) return Error(Bad("the file is empty; its first line is at_s,service[,rows[,sequence]]"));
    if (trace_.arrivals.empty()) return Error(Bad("there are no arrivals"));
    return std::move(trace_);
  }

 private:
  Status Bad(const std::string& what) const {
    return {StatusCode::kInvalidArgument, source_ + ":" + std::to_string(number_) + ": " + what};
  }
  Status BadColumn(size_t column, std::string_view text, const std::string& what) const {
    return Bad("column " + std::string(kColumns[column]) + ": '" + std::string(text) + "' " + what);
  }

  Status Header(const std::vector<std::string_view>& fields) {
    const bool known = fields.size() >= 2 && fields.size() <= kColumns.size() &&
                       std::equal(fields.begin(), fields.end(), kColumns.begin());
    if (!known) return Bad("the first line names the columns: at_s,service[,rows[,sequence]]");
    columns_ = fields.size();
    return Status::Ok();
  }

  Status Arrival(const std::vector<std::string_view>& fields) {
    if (fields.size() != columns_) {
      return Bad("has " + std::to_string(fields.size()) + " columns, the first line names " + std::to_string(columns_));
    }
    double at_s = 0;
    const auto [end, error] = std::from_chars(fields[0].data(), fields[0].data() + fields[0].size(), at_s);
    if (error != std::errc() || end != fields[0].data() + fields[0].size() || !(at_s >= 0) || at_s > kLongestS) {
      return BadColumn(0, fields[0], "is no time in seconds from 0 on");
    }
    TraceArrival arrival;
    arrival.at_ns = static_cast<uint64_t>(std::llround(at_s * 1e9));
    if (!trace_.arrivals.empty() && arrival.at_ns < trace_.arrivals.back().at_ns) {
      return BadColumn(0, fields[0], "is before the arrival of the line before; sort the file by time");
    }
    if (fields[1].empty()) return BadColumn(1, fields[1], "names no service");
    const auto [entry, added] = index_.try_emplace(std::string(fields[1]), trace_.services.size());
    if (added) trace_.services.emplace_back(fields[1]);
    arrival.service = static_cast<uint32_t>(entry->second);
    if (columns_ > 2 && !ReadCount(fields[2], &arrival.rows)) {
      return BadColumn(2, fields[2], "is no number of rows");
    }
    if (columns_ > 3 && !ReadCount(fields[3], &arrival.sequence)) return BadColumn(3, fields[3], "is no length");
    arrival.rows = std::max(1u, arrival.rows);
    trace_.arrivals.push_back(arrival);
    return Status::Ok();
  }

  const std::string& source_;
  size_t number_ = 0;   // of the line
  size_t columns_ = 0;  // 0: the first line has not come yet
  std::unordered_map<std::string, size_t> index_;
  ArrivalTrace trace_;
};

}  // namespace

Result<ArrivalTrace> ParseArrivalTrace(std::string_view text, const std::string& source) {
  Reader reader(source);
  while (!text.empty()) ABACUS_RETURN_IF_ERROR(reader.Line(TakePart(&text, '\n')));
  return reader.Finish();
}

Result<ArrivalTrace> ReadArrivalTrace(const std::filesystem::path& path) {
  const auto text = ReadWholeFile(path);
  if (!text) return Error(text.error());
  return ParseArrivalTrace(*text, path.string());
}

std::string FormatArrivalTrace(const ArrivalTrace& trace) {
  std::string text = "at_s,service,rows,sequence\n";
  std::array<char, 32> time;
  for (const TraceArrival& arrival : trace.arrivals) {
    const auto seconds = static_cast<unsigned long long>(arrival.at_ns / 1'000'000'000);
    const auto nanoseconds = static_cast<unsigned long long>(arrival.at_ns % 1'000'000'000);
    std::snprintf(time.data(), time.size(), "%llu.%09llu", seconds, nanoseconds);
    text += std::string(time.data()) + "," + trace.services[arrival.service] + "," + std::to_string(arrival.rows) +
            "," + std::to_string(arrival.sequence) + "\n";
  }
  return text;
}

}  // namespace abacus
