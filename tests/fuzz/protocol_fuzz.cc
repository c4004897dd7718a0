// Any bytes as the header of a request and of a reply: an error that names a field, or a message that comes through
// encoding and decoding unchanged; never a crash. What a header may say about regions is whole or not there.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "client/protocol.h"

namespace {

using abacus::protocol::DecodeError;

void CheckPlaces(const abacus::protocol::Request& request) {
  for (const auto& input : request.inputs) {
    if (input.has_frame() != (input.region == 0)) std::abort();
  }
  if (request.outputs_region == 0 && (request.outputs_offset != 0 || request.outputs_bytes != 0)) std::abort();
}
void CheckPlaces(const abacus::protocol::Reply& reply) {
  for (const auto& output : reply.outputs) {
    if (output.region != 0) std::abort();
  }
}

template <class Message, class Decode, class Encode>
void Check(std::span<const std::byte> bytes, Decode decode, Encode encode) {
  Message message;
  const auto decoded = decode(bytes, &message);
  if (!decoded) {
    const DecodeError& error = decoded.error();
    if (error.field.empty() || error.message.empty() || (!error.has_id && error.id != 0)) std::abort();
    return;
  }
  CheckPlaces(message);
  std::string encoded;
  encode(message, &encoded);
  Message again;
  if (!decode(std::as_bytes(std::span(encoded)), &again) || !(again == message)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Check<abacus::protocol::Request>(bytes, abacus::protocol::DecodeRequest, abacus::protocol::EncodeRequest);
  Check<abacus::protocol::Reply>(bytes, abacus::protocol::DecodeReply, abacus::protocol::EncodeReply);
  return 0;
}
