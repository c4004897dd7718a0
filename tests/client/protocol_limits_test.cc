// Each limit of a header holds at its value and fails one beyond.
#include <cstdint>
#include <limits>
#include <string>

#include "tests/client/protocol_headers.h"

namespace abacus::protocol {
namespace {

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
  for (const char* place : {"/inputs/1/region", "/inputs/1/offset", "/outputs_region", "/outputs_offset",
                            "/outputs_bytes"}) {  // whether they lie in a region is for who knows it
    header = InferHeader();
    header[Json::json_pointer(place)] = UINT64_MAX;
    EXPECT_TRUE(RequestAccepted(header)) << place;
  }
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

}  // namespace
}  // namespace abacus::protocol
