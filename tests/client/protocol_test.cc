#include "client/protocol.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace abacus::protocol {
namespace {

std::string Bytes(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}
std::span<const std::byte> AsBytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// Writes the same bytes as any other msgpack library would; docs/protocol.md shows them.
struct GoldenRequest {
  Request request;
  std::string_view hex;
};
struct GoldenReply {
  Reply reply;
  std::string_view hex;
};

constexpr uint64_t kRegion = 0x0123456789abcdef;

std::vector<GoldenRequest> GoldenRequests() {
  Request infer;
  infer.id = 7;
  infer.model = "resnet50";
  infer.qos_us = 50'000;
  infer.inputs = {{"input", DType::kFloat32, {1, 3, 224, 224}}};
  Request synthetic;
  synthetic.id = 9;
  synthetic.model = "bert";
  synthetic.synthetic = true;
  synthetic.batch = 2;
  synthetic.sequence = 64;
  Request health;
  health.type = RequestType::kHealth;
  health.id = 1;
  Request leased;
  leased.id = 10;
  leased.model = "resnet50";
  leased.inputs = {{"input", DType::kFloat32, {1, 3, 224, 224}, kRegion, 0}};
  leased.outputs_region = kRegion;
  leased.outputs_offset = 602'112;
  leased.outputs_bytes = 4'096;
  Request cancel;
  cancel.type = RequestType::kCancel;
  cancel.id = 10;
  return {{infer,
           "86a17601a474797065a5696e666572a2696407a56d6f64656ca87265736e65743530a6716f735f7573cdc350a6696e70757473918"
           "3a46e616d65a5696e707574a56474797065a7666c6f61743332a57368617065940103cce0cce0"},
          {synthetic,
           "85a17601a474797065a5696e666572a2696409a56d6f64656ca462657274a973796e74686574696382a5626174636802a87365717"
           "5656e636540"},
          {health, "83a17601a474797065a66865616c7468a2696401"},
          {leased,
           "88a17601a474797065a5696e666572a269640aa56d6f64656ca87265736e65743530a6696e707574739185a46e616d65a5696e7075"
           "74a56474797065a7666c6f61743332a57368617065940103cce0cce0a6726567696f6ecf0123456789abcdefa66f666673657400ae"
           "6f7574707574735f726567696f6ecf0123456789abcdefae6f7574707574735f6f6666736574ce00093000ad6f7574707574735f62"
           "79746573cd1000"},
          {cancel, "83a17601a474797065a663616e63656ca269640a"}};
}

std::vector<GoldenReply> GoldenReplies() {
  Reply ok;
  ok.id = 7;
  ok.model = "resnet50";
  ok.outputs = {{"logits", DType::kFloat32, {1, 1000}}};
  ok.timing = {1200, 5300, 6800, 4, 5100};
  ok.digest = "9f86d081884c7d65";
  Reply error;
  error.id = 8;
  error.status = StatusCode::kInvalidArgument;
  error.message = "unknown dtype 'float12'";
  error.field = "inputs[0].dtype";
  Reply models;
  models.id = 3;
  ModelDescription gru;
  gru.name = "gru";
  gru.inputs.resize(2);
  gru.inputs[0] = {.name = "x", .dtype = DType::kFloat32, .dims = {"batch", "sequence"}};
  gru.inputs[0].has_float_range = true;
  gru.inputs[0].float_low = 0.5;
  gru.inputs[0].float_high = 1;
  gru.inputs[1] = {.name = "lengths", .dtype = DType::kInt64, .dims = {"batch"}};
  gru.inputs[1].has_range = true;
  gru.inputs[1].low = 1;
  gru.inputs[1].high = 16;
  gru.inputs[1].range_to_sequence = true;
  gru.batch_sizes = {2, 4};
  gru.sequence_lengths = {8, 16};
  gru.qos_us = 50'000;
  gru.batchable = false;
  gru.sequence_padding = "exact";
  gru.digest = "9f86d081884c7d659f86d081884c7d659f86d081884c7d659f86d081884c7d65";
  models.models = {gru};
  models.max_frame_bytes = 64 << 20;
  models.max_message_bytes = 128 << 20;
  Reply leased = ok;
  leased.id = 10;
  leased.outputs[0].offset = 602'112;
  leased.timing = {};
  Reply cancelled;
  cancelled.id = 10;
  cancelled.status = StatusCode::kCancelled;
  cancelled.message = "cancelled by its client";
  cancelled.model = "resnet50";
  Reply health;
  health.id = 1;
  health.ready = true;
  health.max_frame_bytes = 64 << 20;
  health.max_message_bytes = 128 << 20;
  health.lease = "/run/abacus/default/lease.sock";
  return {
      {ok,
       "87a17601a2696407a6737461747573a24f4ba56d6f64656ca87265736e65743530a76f7574707574739183a46e616d65a66c6f67"
       "697473a56474797065a7666c6f61743332a573686170659201cd03e8a674696d696e6785a97175657565645f7573cd04b0ab6578"
       "6563757465645f7573cd14b4a8746f74616c5f7573cd1a90a6726f756e647304ac7072656469637465645f7573cd13eca6646967"
       "657374b039663836643038313838346337643635"},
      {models,
       "86a17601a2696403a6737461747573a24f4ba66d6f64656c739188a46e616d65a3677275a6696e707574739284a46e616d65a178"
       "a56474797065a7666c6f61743332a464696d7392a56261746368a873657175656e6365ab666c6f61745f72616e676592cb3fe000"
       "0000000000cb3ff000000000000085a46e616d65a76c656e67746873a56474797065a5696e743634a464696d7391a56261746368"
       "a572616e6765920110b172616e67655f746f5f73657175656e6365c3a56261746368920204a873657175656e6365920810a6716f"
       "735f7573cdc350a9626174636861626c65c2b073657175656e63655f70616464696e67a56578616374a6646967657374d9403966"
       "38366430383138383463376436353966383664303831383834633764363539663836643038313838346337643635396638366430"
       "38313838346337643635af6d61785f6672616d655f6279746573ce04000000b16d61785f6d6573736167655f6279746573ce0800"
       "0000"},
      {leased,
       "86a17601a269640aa6737461747573a24f4ba56d6f64656ca87265736e65743530a76f7574707574739184a46e616d65a66c6f6769"
       "7473a56474797065a7666c6f61743332a573686170659201cd03e8a66f6666736574ce00093000a6646967657374b0396638366430"
       "38313838346337643635"},
      {cancelled,
       "85a17601a269640aa6737461747573a943414e43454c4c4544a76d657373616765b763616e63656c6c656420627920697473"
       "20636c69656e74a56d6f64656ca87265736e65743530"},
      {health,
       "87a17601a2696401a6737461747573a24f4ba57265616479c3af6d61785f6672616d655f6279746573ce04000000b16d61785f6d65"
       "73736167655f6279746573ce08000000a56c65617365be2f72756e2f6162616375732f64656661756c742f6c656173652e736f636b"},
      {error,
       "85a17601a2696408a6737461747573b0494e56414c49445f415247554d454e54a76d657373616765b7756e6b6e6f776e206474797"
       "0652027666c6f6174313227a56669656c64af696e707574735b305d2e6474797065"}};
}

TEST(ProtocolGolden, RequestsKeepTheirBytes) {
  for (const auto& [request, hex] : GoldenRequests()) {
    std::string encoded;
    EncodeRequest(request, &encoded);
    EXPECT_EQ(encoded, Bytes(hex)) << hex;
    Request decoded;
    ASSERT_TRUE(DecodeRequest(AsBytes(Bytes(hex)), &decoded));
    EXPECT_EQ(decoded, request);
  }
}

TEST(ProtocolGolden, RepliesKeepTheirBytes) {
  for (const auto& [reply, hex] : GoldenReplies()) {
    std::string encoded;
    EncodeReply(reply, &encoded);
    EXPECT_EQ(encoded, Bytes(hex)) << hex;
    Reply decoded;
    ASSERT_TRUE(DecodeReply(AsBytes(Bytes(hex)), &decoded));
    EXPECT_EQ(decoded, reply);
  }
}

// Random messages within the limits.
class Generator {
 public:
  explicit Generator(uint64_t seed) : engine_(seed) {}

  Request MakeRequest() {
    Request request;
    request.type = static_cast<RequestType>(Below(4));
    request.id = Number();
    if (request.type == RequestType::kInfer || Below(2) == 0) request.model = Name();
    request.qos_us = Number();
    request.synthetic = Below(3) == 0;
    if (request.synthetic) {
      request.batch = 1 + static_cast<uint32_t>(Number() >> 33);
      request.sequence = static_cast<uint32_t>(Number());
    } else {
      request.inputs = Tensors();
      for (TensorHeader& input : request.inputs) {
        if (Below(2) == 0) continue;
        input.region = 1 + (Number() >> 1);
        input.offset = Number();
      }
      if (Below(2) == 0) {
        request.outputs_region = 1 + (Number() >> 1);
        request.outputs_offset = Number();
        request.outputs_bytes = Number();
      }
    }
    return request;
  }

  Reply MakeReply() {
    Reply reply;
    reply.id = Number();
    reply.status = static_cast<StatusCode>(Below(kWireStatusCount));
    reply.message = Message();
    reply.field = Message();
    if (Below(2) == 0) reply.model = Name();
    reply.outputs = Tensors();
    for (TensorHeader& output : reply.outputs) {
      if (Below(2) == 0) output.offset = Below(2) == 0 ? 0 : Number();
    }
    if (Below(2) == 0) reply.lease = Message();
    if (Below(2) == 0) reply.timing = {Number(), Number(), Number(), static_cast<uint32_t>(Number()), Number()};
    reply.ready = Below(2) == 0;
    if (Below(2) == 0) reply.digest = Name();
    if (Below(2) == 0) reply.max_frame_bytes = Number();
    if (Below(2) == 0) reply.max_message_bytes = Number();
    for (uint64_t i = Below(4); i > 0; --i) {
      ModelDescription model;
      model.name = Name();
      model.inputs = Descriptions();
      model.outputs = Descriptions();
      model.batch_sizes = Sizes();
      model.sequence_lengths = Sizes();
      model.qos_us = Number();
      model.batchable = Below(2) == 0;
      if (Below(2) == 0) model.sequence_padding = Name();
      if (Below(2) == 0) model.digest = Name();
      reply.models.push_back(std::move(model));
    }
    for (uint64_t i = Below(4); i > 0; --i) {
      reply.services.push_back({Name(), Name(), Signed(), Number(), Number(), Message()});
    }
    return reply;
  }

 private:
  uint64_t Below(uint64_t n) { return engine_() % n; }
  uint64_t Number() { return engine_() >> Below(65) % 64; }  // of every magnitude
  int64_t Signed() { return static_cast<int64_t>(Number()); }
  double Real() {  // of every magnitude, finite
    for (;;) {
      const auto value = std::bit_cast<double>(engine_());
      if (std::isfinite(value)) return value;
    }
  }
  int64_t Size() { return static_cast<int64_t>(Number() >> 1); }
  std::string Name() {
    std::string name(1 + Below(kMaxNameBytes), ' ');
    for (char& c : name) c = static_cast<char>(0x20 + Below(0x5f));
    return name;
  }
  std::string Message() {
    static const std::vector<std::string> kPieces = {"a", "B", " ", "\n", "\x01", "é", "€", "😀"};
    std::string message;
    for (uint64_t i = Below(20); i > 0; --i) message += kPieces[Below(kPieces.size())];
    return message;
  }
  std::vector<TensorHeader> Tensors() {
    std::vector<TensorHeader> tensors(Below(4) == 0 ? kMaxTensors : Below(3));
    for (TensorHeader& tensor : tensors) {
      tensor.name = Name();
      tensor.dtype = static_cast<DType>(Below(kDTypes.size()));
      for (uint64_t rank = Below(kMaxRank + 1); rank > 0; --rank) {
        Shape larger = tensor.shape;
        larger.push_back(Size() >> 32);
        if (larger.Elements()) tensor.shape = larger;
      }
    }
    return tensors;
  }
  std::vector<TensorDescription> Descriptions() {
    std::vector<TensorDescription> tensors(Below(3));
    for (TensorDescription& tensor : tensors) {
      tensor.name = Name();
      tensor.dtype = static_cast<DType>(Below(kDTypes.size()));
      tensor.dims.resize(Below(kMaxRank + 1));
      for (std::string& dim : tensor.dims) dim = Name();
      tensor.range_to_sequence = Below(4) == 0;
      tensor.has_float_range = Below(2) == 0;
      if (tensor.has_float_range) {
        const double x = Real(), y = Real();
        tensor.float_low = std::min(x, y);
        tensor.float_high = std::max(x, y);
      }
      tensor.has_range = Below(2) == 0;
      if (!tensor.has_range) continue;
      const int64_t a = Signed(), b = Signed();
      tensor.low = std::min(a, b);
      tensor.high = std::max(a, b);
    }
    return tensors;
  }
  std::vector<int64_t> Sizes() {
    std::vector<int64_t> sizes(Below(6));
    for (int64_t& size : sizes) size = Size();
    return sizes;
  }

  std::mt19937_64 engine_;
};

TEST(ProtocolRoundTrip, RandomRequests) {
  Generator generator(1);
  std::string encoded;
  Request decoded;  // reused, as the controller does: nothing may remain of the previous one
  for (int i = 0; i < 3000; ++i) {
    const Request request = generator.MakeRequest();
    EncodeRequest(request, &encoded);
    const auto result = DecodeRequest(AsBytes(encoded), &decoded);
    ASSERT_TRUE(result) << i << " " << result.error().field << " " << result.error().message;
    ASSERT_EQ(decoded, request) << i;
  }
}

TEST(ProtocolRoundTrip, RandomReplies) {
  Generator generator(2);
  std::string encoded;
  Reply decoded;
  for (int i = 0; i < 3000; ++i) {
    const Reply reply = generator.MakeReply();
    EncodeReply(reply, &encoded);
    const auto result = DecodeReply(AsBytes(encoded), &decoded);
    ASSERT_TRUE(result) << i << " " << result.error().field << " " << result.error().message;
    ASSERT_EQ(decoded, reply) << i;
  }
}

TEST(ProtocolRoundTrip, ClaimsThatAreLeftOutHaveTheirDefaults) {
  Reply reply;
  reply.models.resize(1);
  reply.models[0].name = "m";
  std::string encoded;
  EncodeReply(reply, &encoded);
  for (const char* key : {"batchable", "sequence_padding", "digest", "max_frame_bytes", "lease"}) {
    EXPECT_EQ(encoded.find(key), std::string::npos) << key;
  }
  Reply decoded;  // of another model before
  decoded.models.resize(1);
  decoded.models[0].batchable = false;
  decoded.digest = "old";
  decoded.max_frame_bytes = 5;
  decoded.lease = "/old";
  ASSERT_TRUE(DecodeReply(AsBytes(encoded), &decoded));
  EXPECT_EQ(decoded, reply);
  EXPECT_TRUE(decoded.models[0].batchable);
}

// An offset of 0 is a place, and none is a frame: the one thing of the protocol that is not left out where it is 0.
TEST(ProtocolRoundTrip, AnOffsetOfZeroIsNoFrame) {
  Reply reply, decoded;
  reply.outputs = {{"y", DType::kInt64, {1}, 0, 0}, {"z", DType::kInt64, {1}}};
  std::string encoded;
  EncodeReply(reply, &encoded);
  ASSERT_TRUE(DecodeReply(AsBytes(encoded), &decoded));
  EXPECT_FALSE(decoded.outputs[0].has_frame());
  EXPECT_TRUE(decoded.outputs[1].has_frame());
  EXPECT_EQ(decoded, reply);
}

TEST(ProtocolRoundTrip, StatusesThatStayAtHomeGoOutAsInternal) {
  Reply reply;
  reply.status = StatusCode::kTimeout;
  std::string encoded;
  EncodeReply(reply, &encoded);
  ASSERT_TRUE(DecodeReply(AsBytes(encoded), &reply));
  EXPECT_EQ(reply.status, StatusCode::kInternal);
}

std::string MessageAfterRoundTrip(const std::string& message) {
  Reply reply;
  reply.message = message;
  std::string encoded;
  EncodeReply(reply, &encoded);
  EXPECT_TRUE(DecodeReply(AsBytes(encoded), &reply));
  return reply.message;
}

TEST(ProtocolText, InvalidUtf8IsReplacedAndLongTextIsCut) {
  EXPECT_EQ(MessageAfterRoundTrip("a\xff z"), "a? z");
  EXPECT_EQ(MessageAfterRoundTrip("\xc3\xa9 \xc3"), "\xc3\xa9 ?");
  EXPECT_EQ(MessageAfterRoundTrip("\xc0\x80"), "??") << "overlong";
  EXPECT_EQ(MessageAfterRoundTrip("\xe0\x80\x80"), "???") << "overlong";
  EXPECT_EQ(MessageAfterRoundTrip("\xed\xa0\x80"), "???") << "surrogate";
  EXPECT_EQ(MessageAfterRoundTrip("\xf0\x80\x80\x80"), "????") << "overlong";
  EXPECT_EQ(MessageAfterRoundTrip("\xf4\x90\x80\x80"), "????") << "beyond U+10FFFF";
  EXPECT_EQ(MessageAfterRoundTrip("\xf4\x8f\xbf\xbf"), "\xf4\x8f\xbf\xbf") << "U+10FFFF";
  EXPECT_EQ(MessageAfterRoundTrip(std::string(kMaxMessageBytes + 1, 'x')), std::string(kMaxMessageBytes, 'x'));
  EXPECT_EQ(MessageAfterRoundTrip(std::string(kMaxMessageBytes - 1, 'x') + "é"),
            std::string(kMaxMessageBytes - 1, 'x') + "?");
}

}  // namespace
}  // namespace abacus::protocol
