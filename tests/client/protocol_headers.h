// Headers of the protocol as JSON values, to be changed by tests, and what the decoders say to them.
#ifndef ABACUS_TESTS_CLIENT_PROTOCOL_HEADERS_H_
#define ABACUS_TESTS_CLIENT_PROTOCOL_HEADERS_H_

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <span>
#include <sstream>
#include <string>

#include "client/protocol.h"

namespace abacus::protocol {

using Json = nlohmann::ordered_json;

inline std::string Pack(const Json& json) {
  const auto bytes = Json::to_msgpack(json);
  return {bytes.begin(), bytes.end()};
}

inline DecodeError DecodeBadRequest(const std::string& header) {
  Request request;
  const auto result = DecodeRequest(std::as_bytes(std::span(header)), &request);
  if (result) return {"", "was accepted"};
  EXPECT_FALSE(result.error().message.empty());
  return result.error();
}
inline DecodeError DecodeBadReply(const std::string& header) {
  Reply reply;
  const auto result = DecodeReply(std::as_bytes(std::span(header)), &reply);
  if (result) return {"", "was accepted"};
  EXPECT_FALSE(result.error().message.empty());
  return result.error();
}
inline bool RequestAccepted(const Json& json) { return DecodeBadRequest(Pack(json)).message == "was accepted"; }
inline bool ReplyAccepted(const Json& json) { return DecodeBadReply(Pack(json)).message == "was accepted"; }

inline Json InferHeader() {
  return {{"v", 1},
          {"type", "infer"},
          {"id", 5},
          {"model", "m"},
          {"qos_us", 1000},
          {"inputs",
           Json::array({{{"name", "x"}, {"dtype", "float32"}, {"shape", {1, 2}}},
                        {{"name", "y"}, {"dtype", "int64"}, {"shape", Json::array()}, {"region", 6}, {"offset", 64}}})},
          {"outputs_region", 7},
          {"outputs_offset", 8},
          {"outputs_bytes", 9}};
}
inline Json SyntheticHeader() {
  return {{"v", 1}, {"type", "infer"}, {"id", 5}, {"model", "m"}, {"synthetic", {{"batch", 2}, {"sequence", 8}}}};
}
inline Json ReplyHeader() {
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
      {"outputs", Json::array({{{"name", "y"}, {"dtype", "float32"}, {"shape", {1}}, {"offset", 64}}})},
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
      {"lease", "/run/lease.sock"},
      {"ready", true},
      {"services",
       Json::array(
           {{{"name", "m"}, {"state", "ready"}, {"pid", 1}, {"queued", 2}, {"restarts", 3}, {"message", "text"}}})}};
}

// "/inputs/1/dtype" -> "inputs[1].dtype", as errors name it.
inline std::string FieldName(const Json::json_pointer& pointer) {
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

}  // namespace abacus::protocol

#endif  // ABACUS_TESTS_CLIENT_PROTOCOL_HEADERS_H_
