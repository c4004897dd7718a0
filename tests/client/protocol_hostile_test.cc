// What the decoders do with headers that no honest peer sends. Headers are built from JSON values.
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "client/protocol.h"

namespace abacus::protocol {
namespace {

using Json = nlohmann::ordered_json;

std::string Pack(const Json& json) {
  const auto bytes = Json::to_msgpack(json);
  return {bytes.begin(), bytes.end()};
}

DecodeError DecodeBadRequest(const std::string& header) {
  Request request;
  const auto result = DecodeRequest(std::as_bytes(std::span(header)), &request);
  if (result) return {"", "was accepted"};
  EXPECT_FALSE(result.error().message.empty());
  return result.error();
}
DecodeError DecodeBadReply(const std::string& header) {
  Reply reply;
  const auto result = DecodeReply(std::as_bytes(std::span(header)), &reply);
  if (result) return {"", "was accepted"};
  EXPECT_FALSE(result.error().message.empty());
  return result.error();
}
bool RequestAccepted(const Json& json) { return DecodeBadRequest(Pack(json)).message == "was accepted"; }
bool ReplyAccepted(const Json& json) { return DecodeBadReply(Pack(json)).message == "was accepted"; }

Json InferHeader() {
  return {{"v", 1},
          {"type", "infer"},
          {"id", 5},
          {"model", "m"},
          {"qos_us", 1000},
          {"inputs", Json::array({{{"name", "x"}, {"dtype", "float32"}, {"shape", {1, 2}}},
                                  {{"name", "y"}, {"dtype", "int64"}, {"shape", Json::array()}}})}};
}
Json SyntheticHeader() {
  return {{"v", 1}, {"type", "infer"}, {"id", 5}, {"model", "m"}, {"synthetic", {{"batch", 2}, {"sequence", 8}}}};
}
Json ReplyHeader() {
  const Json tensor = {{"name", "x"}, {"dtype", "int64"}, {"dims", {"batch", "3"}}, {"range", {0, 9}}};
  const Json claims = {{"name", "x"},
                       {"dtype", "float32"},
                       {"dims", {"batch"}},
                       {"range_to_sequence", true},
                       {"float_range", {0.5, 1.5}}};
  return {
      {"v", 1},
      {"id", 5},
      {"status", "OK"},
      {"message", "text"},
      {"field", "text"},
      {"model", "m"},
      {"outputs", Json::array({{{"name", "y"}, {"dtype", "float32"}, {"shape", {1}}}})},
      {"timing", {{"queued_us", 1}, {"executed_us", 2}, {"total_us", 3}, {"rounds", 4}, {"predicted_us", 5}}},
      {"models", Json::array({{{"name", "m"},
                               {"inputs", Json::array({tensor, claims})},
                               {"outputs", Json::array({tensor})},
                               {"batch", {1, 2}},
                               {"sequence", {8}},
                               {"qos_us", 7},
                               {"batchable", false},
                               {"sequence_padding", "exact"},
                               {"digest", "ab"}}})},
      {"digest", "ab"},
      {"max_frame_bytes", 8},
      {"max_message_bytes", 9},
      {"ready", true},
      {"services",
       Json::array(
           {{{"name", "m"}, {"state", "ready"}, {"pid", 1}, {"queued", 2}, {"restarts", 3}, {"message", "text"}}})}};
}

// "/inputs/1/dtype" -> "inputs[1].dtype", as errors name it.
std::string FieldName(const Json::json_pointer& pointer) {
  std::string name;
  std::istringstream parts(pointer.to_string().substr(1));
  for (std::string part; std::getline(parts, part, '/');) {
    const bool index = part.find_first_not_of("0123456789") == std::string::npos;
    if (index) {
      name.append("[").append(part).append("]");
    } else {
      name.append(name.empty() ? "" : ".").append(part);
    }
  }
  return name;
}

// Puts values of every other type in the place of each value of `header`, which must be refused by its path.
void ExpectTypesChecked(const Json& header, DecodeError (*decode)(const std::string&), uint64_t id) {
  const std::vector<Json> values = {
      nullptr, true, 3, -3, 1.5, "wrong", Json::array({nullptr}), Json::object({{"k", nullptr}}), Json::binary({1, 2})};
  const Json flat = header.flatten();
  std::vector<Json::json_pointer> places;
  for (const auto& [path, value] : flat.items()) {
    for (Json::json_pointer place(path); !place.empty(); place.pop_back()) {
      if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
    }
  }
  for (const auto& place : places) {
    const Json& original = header.at(place);
    for (const Json& value : values) {
      const bool both_integers = original.is_number_integer() && value.is_number_integer() && value.get<int>() >= 0;
      const bool free_text = value.is_string() && original.is_string() && original != "infer" && original != "OK" &&
                             original != "float32" && original != "int64";
      if (both_integers || free_text || (original.is_boolean() && value.is_boolean())) continue;
      if (FieldName(place).ends_with("pid") && value.is_number_integer()) continue;
      const bool in_range = original.is_number_integer() && header.at(place.parent_pointer()) == Json({0, 9});
      if (in_range && value == -3) continue;                  // may be negative
      if (original.is_number_float() && value.is_number()) {  // order is checked, and named by the range
        Json changed = header;
        changed[place] = value;
        const std::string field = decode(Pack(changed)).field;
        EXPECT_TRUE(field.empty() || field == FieldName(place.parent_pointer())) << changed << ": " << field;
        continue;
      }
      Json changed = header;
      changed[place] = value;
      const DecodeError error = decode(Pack(changed));
      std::string expected = FieldName(place);
      if (original.is_array() && value.is_array()) {  // an entry of the wrong type, or too few entries
        expected += original == Json({0, 9}) || original == Json({0.5, 1.5}) ? "" : "[0]";
      }
      if (original.is_object() && value.is_object()) {  // a key is missing in the replacement
        EXPECT_TRUE(error.field.starts_with(expected) || error.message == "was accepted") << changed;
        continue;
      }
      EXPECT_EQ(error.field, expected) << changed << ": " << error.message;
      if (expected == "id") continue;
      EXPECT_TRUE(error.has_id) << changed;
      EXPECT_EQ(error.id, id) << changed;
    }
  }
}

TEST(ProtocolTypes, EveryFieldOfARequestIsCheckedAndNamed) {
  ASSERT_TRUE(RequestAccepted(InferHeader()));
  ASSERT_TRUE(RequestAccepted(SyntheticHeader()));
  ExpectTypesChecked(InferHeader(), DecodeBadRequest, 5);
  ExpectTypesChecked(SyntheticHeader(), DecodeBadRequest, 5);
}

TEST(ProtocolTypes, EveryFieldOfAReplyIsCheckedAndNamed) {
  ASSERT_TRUE(ReplyAccepted(ReplyHeader()));
  ExpectTypesChecked(ReplyHeader(), DecodeBadReply, 5);
}

TEST(ProtocolTypes, MessagesSayWhatIsAllowed) {
  Json header = InferHeader();
  header["inputs"][1]["dtype"] = "float12";
  EXPECT_EQ(
      DecodeBadRequest(Pack(header)).message,
      "unknown dtype 'float12'; one of float32, float16, bfloat16, float64, int64, int32, int16, int8, uint8, bool");
  header = InferHeader();
  header["type"] = "in\nfer";
  EXPECT_EQ(DecodeBadRequest(Pack(header)).message, "unknown type 'in\\x0afer'; one of infer, models, health");
  header = InferHeader();
  header["model"] = 5;
  EXPECT_EQ(DecodeBadRequest(Pack(header)).message, "must be a string, not an integer");
}

TEST(ProtocolFields, RequiredOnesAreMissed) {
  for (const char* key : {"v", "type", "id", "model"}) {
    Json header = InferHeader();
    header.erase(key);
    EXPECT_EQ(DecodeBadRequest(Pack(header)).field, key);
  }
  for (const char* key : {"v", "id", "status"}) {
    Json header = ReplyHeader();
    header.erase(key);
    EXPECT_EQ(DecodeBadReply(Pack(header)).field, key);
  }
  for (const char* key : {"name", "dtype", "shape"}) {
    Json header = InferHeader();
    header["inputs"][1].erase(key);
    EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[1]." + std::string(key));
  }
  Json header = SyntheticHeader();
  header["synthetic"].erase("batch");
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "synthetic.batch");
}

TEST(ProtocolFields, DuplicatesAreRefused) {
  const std::string twice = "\x84\xa1v\x01\xa4type\xa6health\xa2id\x01\xa2id\x02";
  EXPECT_EQ(DecodeBadRequest(twice).field, "id");
  EXPECT_EQ(DecodeBadRequest(twice).message, "occurs twice");
  EXPECT_EQ(DecodeBadReply("\x82\xa1v\x01\xa1v\x01").field, "v");
}

TEST(ProtocolFields, UnknownOnesAreSkipped) {
  Json header = InferHeader();
  header["x"] = {{"deep", {1, {{"a", nullptr}}, 2.5}}, {"", "text"}};
  header["inputs"][0]["layout"] = "nchw";
  EXPECT_TRUE(RequestAccepted(header));
  header["inputs"][0]["layout"] = Json::array({1, Json::binary({1})});
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[0].layout");
}

TEST(ProtocolFields, KeysAreStrings) { EXPECT_EQ(DecodeBadRequest("\x82\xa1v\x01\x05\x06").field, "header"); }

TEST(ProtocolFields, VersionIsCheckedFirst) {
  EXPECT_EQ(DecodeBadRequest(Pack({{"id", 3}, {"inputs", 5}, {"v", 2}})).field, "v");
  const DecodeError error = DecodeBadRequest(Pack({{"id", 3}, {"v", 2}}));
  EXPECT_EQ(error.message, "is 2; this side speaks version 1");
  EXPECT_TRUE(error.has_id);
  EXPECT_EQ(error.id, 3u);
  EXPECT_EQ(DecodeBadReply(Pack({{"v", -1}})).field, "v");
}

TEST(ProtocolFields, QueriesAreConsistent) {
  Json header = SyntheticHeader();
  header["synthetic"]["batch"] = 0;
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "synthetic.batch");
  header = InferHeader();
  header["synthetic"] = {{"batch", 1}};
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs");
  header = InferHeader();
  header["inputs"][0]["shape"] = {1 << 30, 1 << 30, 1 << 30};
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[0].shape");
}

// Each limit holds at its value and fails one beyond.
TEST(ProtocolLimits, Names) {
  Json header = InferHeader();
  for (const char* place : {"/model", "/inputs/1/name"}) {
    const Json::json_pointer pointer(place);
    header = InferHeader();
    header[pointer] = std::string(kMaxNameBytes, 'n');
    EXPECT_TRUE(RequestAccepted(header));
    for (const std::string& bad :
         {std::string(kMaxNameBytes + 1, 'n'), std::string(), std::string("a\nb"), std::string("é")}) {
      header[pointer] = bad;
      EXPECT_EQ(DecodeBadRequest(Pack(header)).field, FieldName(pointer)) << bad;
    }
  }
}

TEST(ProtocolLimits, TensorsAndRank) {
  Json header = InferHeader();
  header["inputs"] = Json(kMaxTensors, InferHeader()["inputs"][0]);
  EXPECT_TRUE(RequestAccepted(header));
  header["inputs"].push_back(InferHeader()["inputs"][0]);
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs");
  EXPECT_EQ(DecodeBadRequest(Pack(header)).message, "has 17 entries; at most 16 are allowed");
  header = InferHeader();
  header["inputs"][0]["shape"] = Json(kMaxRank, 1);
  EXPECT_TRUE(RequestAccepted(header));
  header["inputs"][0]["shape"].push_back(1);
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[0].shape");
}

TEST(ProtocolLimits, ServicesAndBuckets) {
  for (const char* key : {"models", "services"}) {
    Json header = ReplyHeader();
    header[key] = Json(kMaxServices, ReplyHeader()[key][0]);
    EXPECT_TRUE(ReplyAccepted(header));
    header[key].push_back(ReplyHeader()[key][0]);
    EXPECT_EQ(DecodeBadReply(Pack(header)).field, key);
  }
  for (const char* key : {"batch", "sequence"}) {
    Json header = ReplyHeader();
    header["models"][0][key] = Json(kMaxBucketSizes, 1);
    EXPECT_TRUE(ReplyAccepted(header));
    header["models"][0][key].push_back(1);
    EXPECT_EQ(DecodeBadReply(Pack(header)).field, "models[0]." + std::string(key));
  }
}

TEST(ProtocolLimits, Numbers) {
  Json header = InferHeader();
  header["id"] = UINT64_MAX;
  EXPECT_TRUE(RequestAccepted(header));
  header["inputs"][0]["shape"] = {INT64_MAX / 16, 1};
  EXPECT_TRUE(RequestAccepted(header));
  header["inputs"][0]["shape"] = {uint64_t{1} << 63, 0};
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[0].shape[0]");
  header = SyntheticHeader();
  header["synthetic"]["batch"] = UINT32_MAX;
  EXPECT_TRUE(RequestAccepted(header));
  header["synthetic"]["batch"] = uint64_t{UINT32_MAX} + 1;
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "synthetic.batch");
  header = ReplyHeader();
  header["models"][0]["inputs"][0]["range"] = {INT64_MIN, INT64_MAX};
  EXPECT_TRUE(ReplyAccepted(header));
  header["models"][0]["inputs"][0]["range"] = {1, 0};
  EXPECT_EQ(DecodeBadReply(Pack(header)).field, "models[0].inputs[0].range");
  header["models"][0]["inputs"][0]["range"] = {1, 2, 3};
  EXPECT_EQ(DecodeBadReply(Pack(header)).field, "models[0].inputs[0].range");
}

TEST(ProtocolLimits, FloatRanges) {
  Json header = ReplyHeader();
  const Json::json_pointer place("/models/0/inputs/1/float_range");
  const auto field = [&](const Json& range) {
    header[place] = range;
    return DecodeBadReply(Pack(header)).field;
  };
  const std::string range = "models[0].inputs[1].float_range";
  for (const Json& good : {Json({0.5, 0.5}), Json({-1e308, 1e308}), Json({0, 1}), Json({-3, 2.5})}) {
    EXPECT_EQ(field(good), "") << good;
  }
  for (const Json& bad : {Json({1.5, 0.5}), Json::array({0.5}), Json({0.5, 1.0, 1.5}), Json::array()}) {
    EXPECT_EQ(field(bad), range) << bad;
  }
  constexpr double kInf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(field({std::numeric_limits<double>::quiet_NaN(), 1.0}), range + "[0]");
  EXPECT_EQ(field({0.0, kInf}), range + "[1]");
  EXPECT_EQ(field({-kInf, 0.0}), range + "[0]");
}

TEST(ProtocolLimits, HeaderBytes) {
  Json header = InferHeader();
  header["padding"] = "";
  const size_t longer = kMaxHeaderBytes - Pack(header).size() - 2;  // its length takes 3 bytes instead of 1
  header["padding"] = std::string(longer, 'x');
  ASSERT_EQ(Pack(header).size(), kMaxHeaderBytes);
  EXPECT_TRUE(RequestAccepted(header));
  header["padding"] = std::string(longer + 1, 'x');
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "header");
}

TEST(ProtocolLimits, Depth) {
  const auto nested = [](size_t levels) {
    Json value = 0;
    for (size_t i = 0; i < levels; ++i) value = Json::array({value});
    Json header = InferHeader();
    header["x"] = value;
    return header;
  };
  EXPECT_TRUE(RequestAccepted(nested(kMaxDepth - 1)));
  const DecodeError error = DecodeBadRequest(Pack(nested(kMaxDepth)));
  EXPECT_EQ(error.field, "header");
  EXPECT_EQ(error.message, "is nested deeper than 8");
  EXPECT_TRUE(error.has_id) << "it stands before the error";
  for (const char* level : {"\x91", "\x81\xa1x"}) {  // arrays and maps that never end
    std::string bomb;
    while (bomb.size() < kMaxHeaderBytes - 3) bomb += level;
    EXPECT_EQ(DecodeBadRequest(bomb).field, "header");
  }
}

TEST(ProtocolLimits, EntriesAndValues) {
  Json header = ReplyHeader();
  header["x"] = Json(kMaxEntries, 0);
  EXPECT_TRUE(ReplyAccepted(header));
  header["x"] = Json(kMaxEntries + 1, 0);
  EXPECT_EQ(DecodeBadReply(Pack(header)).field, "header");
  header = Json::object({{"v", 1}, {"type", "health"}, {"id", 1}});
  const size_t values = 1 + 2 * 3 + 2;  // with the key "x" and its array
  header["x"] = Json(kMaxRequestValues - values, 0);
  EXPECT_TRUE(RequestAccepted(header));
  header["x"].push_back(0);
  EXPECT_EQ(DecodeBadRequest(Pack(header)).message, "has more than 1024 values");
}

TEST(ProtocolHostile, AnnouncedSizesCostNothing) {
  using namespace std::string_literals;
  for (const std::string& header : {"\xdd\xff\xff\xff\xff"s, "\xdf\xff\xff\xff\xff"s, "\xdb\xff\xff\xff\xff"s,
                                    "\xc6\xff\xff\xff\xff"s, "\xc9\xff\xff\xff\xff\x01"s, "\xdc\xff\xff"s}) {
    EXPECT_EQ(DecodeBadRequest(header).field, "header");
    EXPECT_EQ(DecodeBadReply(header).field, "header");
    EXPECT_EQ(DecodeBadRequest("\x82\xa1v\x01\xa6inputs"s + header).field, "header");
  }
}

TEST(ProtocolHostile, NoHeaderAtAll) {
  for (const std::string& header : {std::string(), std::string("\xc1"), std::string("\x05"), std::string("\xa1x"),
                                    std::string("\x90"), std::string("\xc0"), std::string("GET / HTTP/1.1\r\n")}) {
    EXPECT_EQ(DecodeBadRequest(header).field, "header");
    EXPECT_EQ(DecodeBadReply(header).field, "header");
    EXPECT_FALSE(DecodeBadRequest(header).has_id);
  }
  EXPECT_EQ(DecodeBadRequest("\x80").field, "v");
}

TEST(ProtocolHostile, EveryTruncationIsAnError) {
  for (const std::string& header : {Pack(InferHeader()), Pack(SyntheticHeader())}) {
    for (size_t size = 0; size < header.size(); ++size) {
      const DecodeError error = DecodeBadRequest(header.substr(0, size));
      EXPECT_EQ(error.field, "header") << size;
      const size_t id_end = header.find("\xa2id\x05") + 4;
      EXPECT_EQ(error.has_id, size >= id_end) << size;
    }
  }
  const std::string reply = Pack(ReplyHeader());
  for (size_t size = 0; size < reply.size(); ++size) {
    EXPECT_EQ(DecodeBadReply(reply.substr(0, size)).field, "header") << size;
  }
}

TEST(ProtocolHostile, TrailingBytesAreAnError) {
  const DecodeError error = DecodeBadRequest(Pack(InferHeader()) + "\xc0");
  EXPECT_EQ(error.field, "header");
  EXPECT_EQ(error.message, "is followed by 1 more bytes");
  EXPECT_EQ(error.id, 5u);
}

TEST(ProtocolHostile, EveryChangedByteIsHandled) {
  const std::string request = Pack(InferHeader());
  const std::string reply = Pack(ReplyHeader());
  for (const std::string& header : {request, reply}) {
    for (size_t at = 0; at < header.size(); ++at) {
      for (int value = 0; value < 256; value += 7) {
        std::string changed = header;
        changed[at] = static_cast<char>(value);
        Request ignored_request;
        Reply ignored_reply;
        (void)DecodeRequest(std::as_bytes(std::span(changed)), &ignored_request);
        (void)DecodeReply(std::as_bytes(std::span(changed)), &ignored_reply);
      }
    }
  }
}

// A map under an empty key: the path of what is wrong in it must still say something.
TEST(ProtocolHostile, AnEmptyKeyHasAPath) {
  const DecodeError error = DecodeBadRequest(std::string("\x82\xa1v\x01\xa0\xc4\x01x", 8));
  EXPECT_FALSE(error.field.empty());
  EXPECT_FALSE(error.message.empty());
}

}  // namespace
}  // namespace abacus::protocol
