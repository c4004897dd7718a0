#include "controller/trace/trace_writer.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

namespace abacus {
namespace {

using nlohmann::json;

constexpr int kPid = 1;
constexpr int kFirstTid = 10;  // viewers sort by it, and take a thread whose tid is the pid for the main thread

double Us(uint64_t ns) { return static_cast<double>(ns) * 1e-3; }
double SignedUs(uint64_t from_ns, uint64_t to_ns) {
  return static_cast<double>(static_cast<int64_t>(to_ns - from_ns)) * 1e-3;
}

// The file while it is written: one event a line.
class EventFile {
 public:
  EventFile(const std::filesystem::path& path, const TraceSubject& subject)
      : path_(path), temporary_(path.string() + ".new"), file_(temporary_, std::ios::binary | std::ios::trunc) {
    const json about = {{"controller", subject.controller}, {"trace_events", subject.capacity}};
    file_ << "{\"otherData\":" << Text(about) << ",\n\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  }

  void Add(const json& event) {
    file_ << (first_ ? "\n" : ",\n") << Text(event);
    first_ = false;
  }

  Status Finish() {
    file_ << "\n]}\n";
    file_.close();
    std::error_code error{errno != 0 ? errno : EIO, std::generic_category()};
    if (file_) std::filesystem::rename(temporary_, path_, error);  // clears `error` when it succeeds
    if (!error) return Status::Ok();
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
    return {StatusCode::kUnavailable, "cannot write the trace " + path_.string() + ": " + error.message()};
  }

 private:
  static std::string Text(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

  const std::filesystem::path path_;
  const std::string temporary_;
  std::ofstream file_;
  bool first_ = true;
};

// A row of slices, in the order of their beginning.
class Track {
 public:
  Track(EventFile* file, int order, const std::string& name, uint64_t origin_ns)
      : file_(file), tid_(kFirstTid + order), origin_ns_(origin_ns), end_ns_(origin_ns) {
    file_->Add({{"ph", "M"}, {"pid", kPid}, {"tid", tid_}, {"name", "thread_name"}, {"args", {{"name", name}}}});
    file_->Add(
        {{"ph", "M"}, {"pid", kPid}, {"tid", tid_}, {"name", "thread_sort_index"}, {"args", {{"sort_index", order}}}});
  }

  void Slice(const std::string& name, uint64_t begin_ns, uint64_t end_ns, json args) {
    begin_ns = std::max(begin_ns, end_ns_);
    end_ns_ = std::max(begin_ns, end_ns);
    file_->Add({{"ph", "X"},
                {"pid", kPid},
                {"tid", tid_},
                {"name", name},
                {"ts", Us(begin_ns - origin_ns_)},
                {"dur", Us(end_ns_ - begin_ns)},
                {"args", std::move(args)}});
  }

 private:
  EventFile* const file_;
  const int tid_;
  const uint64_t origin_ns_;
  uint64_t end_ns_;
};

json RoundArgs(const TraceEvent& round, const std::vector<std::string>& services) {
  json args = {{"ranges", round.ranges}, {"actual_us", Us(round.end_ns - round.begin_ns)}};
  if (round.predicted_ns > 0) {
    const auto predicted_ns = static_cast<double>(round.predicted_ns);
    args["predicted_us"] = predicted_ns * 1e-3;
    args["margin_us"] = Us(round.margin_ns);
    args["error_percent"] = 100 * (static_cast<double>(round.end_ns - round.begin_ns) / predicted_ns - 1);
    args["trained"] = round.trained;
  }
  if (round.order != 0) {
    args["urgent_query"] = round.id;
    args["urgent_order"] = round.order;
    args["urgent_service"] = services[round.service.value()];
  }
  if (round.worth_per_time > 0) args["worth_per_time"] = round.worth_per_time;
  return args;
}

json RangeArgs(const TraceEvent& range) {
  json args = {{"job", range.id},
               {"status", StatusCodeName(range.status)},
               {"queries", range.queries},
               {"rows", range.rows},
               {"bucket_rows", range.bucket_rows}};
  if (range.round != 0) args["round"] = range.round;
  if (range.gpu_ended_ns > range.gpu_started_ns) {
    args["gpu_us"] = Us(range.gpu_ended_ns - range.gpu_started_ns);
    args["gpu_started_ns"] = range.gpu_started_ns;
    args["gpu_ended_ns"] = range.gpu_ended_ns;
  }
  return args;
}

// Track of the prediction of each of the lane's rounds that has one: the first that is free when its round begins.
std::vector<size_t> AssignTracks(std::span<const TraceEvent> events, LaneId lane, size_t* count) {
  std::vector<size_t> track_of(events.size());
  std::vector<uint64_t> ends_ns;
  for (size_t i = 0; i < events.size(); ++i) {
    if (events[i].kind != TraceEvent::kRound || events[i].lane != lane || events[i].predicted_ns == 0) continue;
    const auto is_free = [&](uint64_t end_ns) { return end_ns <= events[i].begin_ns; };
    const auto found = std::find_if(ends_ns.begin(), ends_ns.end(), is_free);
    track_of[i] = static_cast<size_t>(found - ends_ns.begin());
    if (found == ends_ns.end()) ends_ns.push_back(0);
    ends_ns[track_of[i]] = events[i].begin_ns + events[i].predicted_ns;
  }
  *count = ends_ns.size();
  return track_of;
}

// The rounds of one lane, and above them what was predicted for them.
class LaneTracks {
 public:
  // Takes the next tracks from `order` on. `prefix` tells the lanes apart where there are several.
  LaneTracks(EventFile* file, int* order, const std::string& prefix, std::span<const TraceEvent> events, LaneId lane,
             uint64_t origin_ns, const std::vector<std::string>* services)
      : services_(*services) {
    size_t count = 0;
    prediction_of_ = AssignTracks(events, lane, &count);
    for (size_t i = 0; i < std::max<size_t>(1, count); ++i) {
      const std::string name = prefix + (i == 0 ? "rounds predicted" : "rounds predicted, next");
      predictions_.emplace_back(file, (*order)++, name, origin_ns);
    }
    rounds_.emplace(file, (*order)++, prefix + "rounds", origin_ns);
  }

  // Event number `index` of the events.
  void Add(size_t index, const TraceEvent& round) {
    const std::string name = "round " + std::to_string(round.round);
    const json args = RoundArgs(round, services_);
    rounds_->Slice(name, round.begin_ns, round.end_ns, args);
    if (round.predicted_ns == 0) return;
    predictions_[prediction_of_[index]].Slice(name, round.begin_ns, round.begin_ns + round.predicted_ns, args);
  }

 private:
  const std::vector<std::string>& services_;
  std::vector<size_t> prediction_of_;  // by event
  std::vector<Track> predictions_;
  std::optional<Track> rounds_;
};

}  // namespace

Status WriteTrace(std::span<const TraceEvent> events, const TraceSubject& subject, const std::filesystem::path& path) {
  EventFile file(path, subject);
  file.Add(
      {{"ph", "M"}, {"pid", kPid}, {"name", "process_name"}, {"args", {{"name", "abacus " + subject.controller}}}});

  uint64_t origin_ns = std::numeric_limits<uint64_t>::max();
  for (const TraceEvent& event : events) origin_ns = std::min(origin_ns, event.begin_ns);
  int order = 0;
  std::vector<LaneTracks> lanes;
  std::vector<Track> services;
  for (size_t i = 0; i < subject.lanes.size(); ++i) {
    const std::string prefix = subject.lanes.size() > 1 ? "GPU " + subject.lanes[i] + ": " : "";
    lanes.emplace_back(&file, &order, prefix, events, LaneId(i), origin_ns, &subject.services);
  }
  for (const std::string& name : subject.services) services.emplace_back(&file, order++, name, origin_ns);

  for (size_t i = 0; i < events.size(); ++i) {
    const TraceEvent& event = events[i];
    if (event.kind == TraceEvent::kRound) {
      lanes[event.lane.value()].Add(i, event);
    } else if (event.kind == TraceEvent::kRange) {
      const std::string name = "bucket " + std::to_string(event.bucket) + " [" + std::to_string(event.first) + ", " +
                               std::to_string(event.last) + ")";
      services[event.service.value()].Slice(name, event.begin_ns, event.end_ns, RangeArgs(event));
    } else {
      // Ids are the clients' own and may be the same for two of them; the index is not.
      json begin = {{"ph", "b"},
                    {"cat", "query"},
                    {"id", std::to_string(i)},
                    {"pid", kPid},
                    {"tid", kFirstTid},
                    {"name", "queries of " + subject.services[event.service.value()]},
                    {"ts", Us(event.begin_ns - origin_ns)}};
      json end = begin;
      begin["args"] = {{"query", event.id},
                       {"order", event.order},
                       {"status", StatusCodeName(event.status)},
                       {"latency_us", SignedUs(event.begin_ns, event.end_ns)},
                       {"deadline_us", SignedUs(event.begin_ns, event.deadline_ns)}};
      end["ph"] = "e";
      end["ts"] = Us(std::max(event.begin_ns, event.end_ns) - origin_ns);
      file.Add(begin);
      file.Add(end);
    }
  }
  return file.Finish();
}

}  // namespace abacus
