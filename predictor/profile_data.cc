#include "predictor/profile_data.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/file.h"
#include "predictor/latency_model.h"
#include "predictor/profile_json.h"

namespace abacus {
namespace {

using profile_json::json;
using profile_json::ObjectReader;

constexpr uint32_t kVersion = 1;
constexpr size_t kMaxWarnings = 20;  // more say nothing new

Status ReadSolo(const json& value, const std::string& where, ProfileData* data) {
  ObjectReader reader(value, where);
  size_t model = 0, bucket = 0;
  reader.Integer("model", profile_json::kMaxModels, &model);
  reader.Integer("bucket", profile_json::kMaxBuckets, &bucket);
  if (reader.status().ok() && (model >= data->models.size() || bucket >= data->models[model].buckets.size())) {
    reader.Fail("there is no such model and bucket");
  }
  ABACUS_RETURN_IF_ERROR(reader.status());
  return profile_json::SoloFromJson(value, where, &data->models[model].buckets[bucket]);
}

// What is wrong with the numbers of a group; empty: nothing.
std::string BadGroup(const GroupSample& group, const ProfileData& data) {
  if (!std::isfinite(group.us) || group.us <= 0) return "its time is not a positive number";
  uint64_t models = 0;
  for (const ProfiledRange& range : group.ranges) {
    if (range.model >= data.models.size() || range.bucket >= data.models[range.model].buckets.size() ||
        range.first >= range.last || range.last > data.models[range.model].buckets[range.bucket].operators) {
      return "it has a range that its model does not have";
    }
    if ((models >> range.model & 1) != 0) return "it has two ranges of one model";
    models |= uint64_t{1} << range.model;
  }
  return group.ranges.empty() ? "it has no ranges" : "";
}

Status ReadGroup(const json& value, const std::string& where, ProfileData* data) {
  ObjectReader reader(value, where);
  GroupSample group;
  reader.Integer("index", std::numeric_limits<uint64_t>::max() - 1, &group.index);
  reader.Integer("repetitions", 1u << 20, &group.repetitions);
  const json* ranges = reader.Array("ranges", kMaxGroup);
  ABACUS_RETURN_IF_ERROR(reader.status());
  for (const json& entry : *ranges) {
    if (!entry.is_array() || entry.size() != 4 || !std::all_of(entry.begin(), entry.end(), [](const json& n) {
          return n.is_number_unsigned() && n.get<uint64_t>() <= profile_json::kMaxOperators;
        })) {
      reader.Fail("a range must be [model, bucket, first, last]");
      return reader.status();
    }
    group.ranges.push_back(
        {entry[0].get<uint32_t>(), entry[1].get<uint32_t>(), entry[2].get<uint32_t>(), entry[3].get<uint32_t>()});
  }
  // JSON has no NaN: a writer leaves null. Either is bad data, not a bad file.
  const auto number = [&](const char* key) {
    const auto it = value.find(key);
    return it != value.end() && it->is_number() ? it->get<double>() : std::nan("");
  };
  group.us = number("us");
  group.spread = number("spread");
  if (const std::string bad = BadGroup(group, *data); !bad.empty()) {
    if (data->warnings.size() < kMaxWarnings) data->warnings.push_back(where + ": left out, " + bad);
    return Status::Ok();
  }
  if (!std::isfinite(group.spread) || group.spread < 0) group.spread = 0;
  data->groups.push_back(std::move(group));
  return Status::Ok();
}

Status ReadLine(const json& line, const std::string& where, ProfileData* data) {
  if (!line.is_object() || line.size() != 1) {
    return {StatusCode::kInvalidArgument, where + ": not a line of a profile"};
  }
  const std::string& kind = line.begin().key();
  const json& value = line.begin().value();
  if (kind == "solo") return ReadSolo(value, where, data);
  if (kind == "group") return ReadGroup(value, where, data);
  ObjectReader reader(value, where);
  if (kind == "skip") {
    uint64_t index = 0;
    reader.Integer("index", std::numeric_limits<uint64_t>::max() - 1, &index);
    ++data->skipped;
    data->last_skipped_index = std::max(data->last_skipped_index, index);
  } else if (kind == "clock") {
    ClockSample clock;
    reader.Number("t_s", &clock.t_s);
    reader.Number("sm_mhz", &clock.sm_mhz);
    reader.Number("memory_mhz", &clock.memory_mhz);
    reader.Number("temperature_c", &clock.temperature_c);
    data->clocks.push_back(clock);
  } else {
    reader.Fail("unknown kind of line \"" + kind.substr(0, 40) + "\"");
  }
  return reader.status();
}

}  // namespace

double BucketProfile::PrefixUs(uint32_t op) const {
  const auto above = std::lower_bound(operators_at.begin(), operators_at.end(), op);
  if (above == operators_at.end()) return us.back();
  const auto i = static_cast<size_t>(above - operators_at.begin());
  if (*above == op || i == 0) return us[i];
  const double share = static_cast<double>(op - operators_at[i - 1]) / (operators_at[i] - operators_at[i - 1]);
  return us[i - 1] + share * (us[i] - us[i - 1]);
}

uint64_t ProfileData::next_index() const {
  uint64_t next = skipped > 0 ? last_skipped_index + 1 : 0;
  for (const GroupSample& group : groups) next = std::max(next, group.index + 1);
  return next;
}

Result<ProfileData> ParseProfile(std::string_view text, const std::string& source) {
  ProfileData data;
  size_t line_number = 0;
  while (!text.empty()) {
    ++line_number;
    const std::string where = source + ":" + std::to_string(line_number);
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) {
      if (line_number == 1) {
        return Error(StatusCode::kInvalidArgument, where + ": not a profile of abacus-profile, or its line is cut off");
      }
      data.warnings.push_back(where + ": left out, the line is cut off");
      break;
    }
    const json line = json::parse(text.substr(0, end), nullptr, /*allow_exceptions=*/false);
    text.remove_prefix(end + 1);
    if (line_number == 1) {
      if (!line.is_object() || !line.contains("abacus_profile")) {
        return Error(StatusCode::kInvalidArgument, where + ": not a profile of abacus-profile");
      }
      if (line["abacus_profile"] != kVersion) {
        return Error(StatusCode::kInvalidArgument,
                     where + ": this profile has another version than " + std::to_string(kVersion) + "; profile again");
      }
      ABACUS_RETURN_IF_ERROR(profile_json::SubjectFromJson(line, where, /*with_solo=*/false, &data));
      continue;
    }
    ABACUS_RETURN_IF_ERROR(ReadLine(line, where, &data));
  }
  if (line_number == 0) return Error(StatusCode::kInvalidArgument, source + ": the file is empty");
  return data;
}

Result<ProfileData> ReadProfile(const std::filesystem::path& path) {
  const Result<std::string> text = ReadWholeFile(path);
  if (!text) return Error(text.error().code(), text.error().message() + "; abacus-profile writes profiles");
  return ParseProfile(*text, path.string());
}

Result<ProfileWriter> ProfileWriter::Create(const std::filesystem::path& path, const ProfileData& data) {
  std::error_code ignored;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (!file) return Error(StatusCode::kUnavailable, path.string() + ": cannot be written: " + std::strerror(errno));
  ProfileWriter writer(path, std::move(file));
  json line = profile_json::SubjectToJson(data, /*with_solo=*/false);
  line["abacus_profile"] = kVersion;
  ABACUS_RETURN_IF_ERROR(writer.Line(line.dump(-1, ' ', false, json::error_handler_t::replace)));
  return writer;
}

Result<ProfileWriter> ProfileWriter::Append(const std::filesystem::path& path) {
  const Result<std::string> content = ReadWholeFile(path);
  if (!content) return Error(content.error());
  std::error_code error;
  const size_t whole = content->rfind('\n') + 1;  // npos + 1 == 0
  if (whole != content->size()) std::filesystem::resize_file(path, whole, error);
  std::ofstream file(path, std::ios::binary | std::ios::app);
  if (!file || error) {
    return Error(StatusCode::kUnavailable, path.string() + ": cannot be continued: " +
                                               (error ? error.message() : std::string(std::strerror(errno))));
  }
  return ProfileWriter(path, std::move(file));
}

Status ProfileWriter::Line(const std::string& line) {
  file_ << line << '\n';
  file_.flush();
  if (!file_) return {StatusCode::kUnavailable, path_.string() + ": cannot be written: " + std::strerror(errno)};
  return Status::Ok();
}

Status ProfileWriter::Solo(uint32_t model, uint32_t bucket, const BucketProfile& measured) {
  json value = profile_json::SoloToJson(measured);
  value["model"] = model;
  value["bucket"] = bucket;
  return Line(json{{"solo", std::move(value)}}.dump());
}

Status ProfileWriter::Group(const GroupSample& sample) {
  json ranges = json::array();
  for (const ProfiledRange& range : sample.ranges) {
    ranges.push_back({range.model, range.bucket, range.first, range.last});
  }
  return Line(json{{"group",
                    {{"index", sample.index},
                     {"ranges", std::move(ranges)},
                     {"us", sample.us},
                     {"spread", sample.spread},
                     {"repetitions", sample.repetitions}}}}
                  .dump());
}

Status ProfileWriter::Skip(uint64_t index, std::string_view why) {
  return Line(json{{"skip", {{"index", index}, {"why", why}}}}.dump(-1, ' ', false, json::error_handler_t::replace));
}

Status ProfileWriter::Clock(const ClockSample& clock) {
  return Line(json{{"clock",
                    {{"t_s", clock.t_s},
                     {"sm_mhz", clock.sm_mhz},
                     {"memory_mhz", clock.memory_mhz},
                     {"temperature_c", clock.temperature_c}}}}
                  .dump());
}

Status SameSubject(const ProfileData& a, const ProfileData& b) {
  const auto differ = [](const std::string& what, const std::string& x, const std::string& y) {
    return Status(StatusCode::kInvalidArgument, what + " differs: \"" + x + "\" against \"" + y + "\"");
  };
  if (a.device != b.device) return differ("the device", a.device, b.device);
  if (a.libraries != b.libraries) return differ("the set of libraries", a.libraries, b.libraries);
  if (a.models.size() != b.models.size()) {
    return differ("the number of models", std::to_string(a.models.size()), std::to_string(b.models.size()));
  }
  for (size_t m = 0; m < a.models.size(); ++m) {
    const ModelProfile &x = a.models[m], &y = b.models[m];
    if (x.name != y.name) return differ("model " + std::to_string(m), x.name, y.name);
    if (!x.structure.empty() && !y.structure.empty() && x.structure != y.structure) {
      return differ("the structure of " + x.name, x.structure, y.structure);
    }
    const auto same = [](const BucketProfile& p, const BucketProfile& q) {
      return p.batch == q.batch && p.sequence == q.sequence && p.operators == q.operators;
    };
    if (!std::equal(x.buckets.begin(), x.buckets.end(), y.buckets.begin(), y.buckets.end(), same)) {
      return {StatusCode::kInvalidArgument, "the buckets or operators of " + x.name + " differ"};
    }
  }
  return Status::Ok();
}

}  // namespace abacus
