// What the decoders do with headers that no honest peer sends.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/client/protocol_headers.h"

namespace abacus::protocol {
namespace {

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
  EXPECT_EQ(DecodeBadRequest(Pack(header)).message, "unknown type 'in\\x0afer'; one of infer, models, health, cancel");
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

TEST(ProtocolFields, APlaceInARegionIsWhole) {
  for (const auto& [gone, missed] : {std::pair{"region", "region"}, std::pair{"offset", "offset"}}) {
    Json header = InferHeader();
    header["inputs"][1].erase(gone);
    EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[1]." + std::string(missed));
  }
  Json header = InferHeader();
  header["inputs"][1]["region"] = 0;  // which is none
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "inputs[1].region");
  header["inputs"][1].erase("offset");
  EXPECT_TRUE(RequestAccepted(header));
  for (const char* kept : {"outputs_offset", "outputs_bytes"}) {
    header = InferHeader();
    for (const char* key : {"outputs_region", "outputs_offset", "outputs_bytes"}) {
      if (key != std::string(kept)) header.erase(key);
    }
    EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "outputs_region") << kept;
  }
  header = InferHeader();
  header.erase("outputs_offset");  // then at the begin
  EXPECT_TRUE(RequestAccepted(header));
  header = SyntheticHeader();
  header["outputs_region"] = 7;
  EXPECT_EQ(DecodeBadRequest(Pack(header)).field, "outputs_region");
}

// Only a query names regions; what a reply says of one is another's key, which is skipped.
TEST(ProtocolFields, AReplyNamesNoRegion) {
  Json header = ReplyHeader();
  header["outputs"][0]["region"] = "any";
  const std::string packed = Pack(header);
  Reply reply;
  ASSERT_TRUE(DecodeReply(std::as_bytes(std::span(packed)), &reply));
  EXPECT_EQ(reply.outputs[0].region, 0u);
  EXPECT_EQ(reply.outputs[0].offset, 64u);
}

TEST(ProtocolFields, ACancellationIsATypeAndAnId) {
  EXPECT_TRUE(RequestAccepted({{"v", 1}, {"type", "cancel"}, {"id", 5}}));
  EXPECT_EQ(DecodeBadRequest(Pack({{"v", 1}, {"type", "cancel"}})).field, "id");
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
