#include "client/protocol.h"

#include <array>
#include <bit>
#include <msgpack.hpp>
#include <optional>
#include <utility>

#include "client/header_reader.h"

namespace abacus::protocol {
namespace {

constexpr std::array<std::string_view, 3> kRequestTypeNames = {"infer", "models", "health"};
constexpr auto kDTypeNames = [] {
  std::array<std::string_view, kDTypes.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kDTypes[i].name;
  return names;
}();
constexpr auto kWireStatusNames = std::span(kStatusCodeNames).first<kWireStatusCount>();

// Decoding: a table of fields for each map of the protocol.

// Reads into member `kMember` by a method of the reader.
template <auto kMember, auto kRead, class T>
bool Into(HeaderReader& reader, const Path& path, T* out) {
  return (reader.*kRead)(path, &(out->*kMember));
}
// Reads the index of one of `kNames` into an enumeration.
template <auto kMember, const auto& kNames, class T>
bool IntoEnum(HeaderReader& reader, const Path& path, T* out) {
  size_t index = 0;
  if (!reader.OneOf(path, path.key, kNames, &index)) return false;
  out->*kMember = static_cast<std::remove_reference_t<decltype(out->*kMember)>>(index);
  return true;
}
// Reads an array of maps.
template <auto kMember, const auto& kFields, size_t kMaxCount, class T>
bool IntoMaps(HeaderReader& reader, const Path& path, T* out) {
  return reader.Array(path, kMaxCount, &(out->*kMember),
                      [&](const Path& child, auto* entry) { return reader.Map(child, kFields, entry); });
}
// Reads an array of values by a method of the reader.
template <auto kMember, auto kRead, size_t kMaxCount, class T>
bool IntoArray(HeaderReader& reader, const Path& path, T* out) {
  return reader.Array(path, kMaxCount, &(out->*kMember),
                      [&](const Path& child, auto* entry) { return (reader.*kRead)(child, entry); });
}
// "v" is checked before anything else is read.
template <class T>
bool Checked(HeaderReader& reader, const Path& path, T*) {
  return reader.Skip(path);
}

using R = HeaderReader;

constexpr auto kTensorFields = std::to_array<Field<TensorHeader>>({
    {"name", true, Into<&TensorHeader::name, &R::Name>},
    {"dtype", true, IntoEnum<&TensorHeader::dtype, kDTypeNames>},
    {"shape", true, Into<&TensorHeader::shape, &R::TensorShape>},
});

bool ReadBatch(HeaderReader& reader, const Path& path, Request* out) {
  if (!reader.Uint32(path, &out->batch)) return false;
  return out->batch > 0 ? true : reader.Fail(path, "must be at least 1");
}
constexpr auto kSyntheticFields = std::to_array<Field<Request>>({
    {"batch", true, ReadBatch},
    {"sequence", false, Into<&Request::sequence, &R::Uint32>},
});
bool ReadSynthetic(HeaderReader& reader, const Path& path, Request* out) {
  out->synthetic = true;
  return reader.Map(path, kSyntheticFields, out);
}

constexpr auto kRequestFields = std::to_array<Field<Request>>({
    {"v", true, Checked<Request>},
    {"type", true, IntoEnum<&Request::type, kRequestTypeNames>},
    {"id", true, Into<&Request::id, &R::Uint64>},
    {"model", false, Into<&Request::model, &R::Name>},
    {"qos_us", false, Into<&Request::qos_us, &R::Uint64>},
    {"inputs", false, IntoMaps<&Request::inputs, kTensorFields, kMaxTensors>},
    {"synthetic", false, ReadSynthetic},
});

constexpr auto kTimingFields = std::to_array<Field<Timing>>({
    {"queued_us", false, Into<&Timing::queued_us, &R::Uint64>},
    {"executed_us", false, Into<&Timing::executed_us, &R::Uint64>},
    {"total_us", false, Into<&Timing::total_us, &R::Uint64>},
    {"rounds", false, Into<&Timing::rounds, &R::Uint32>},
    {"predicted_us", false, Into<&Timing::predicted_us, &R::Uint64>},
});
bool ReadTiming(HeaderReader& reader, const Path& path, Reply* out) {
  return reader.Map(path, kTimingFields, &out->timing);
}

bool ReadRange(HeaderReader& reader, const Path& path, TensorDescription* out) {
  out->has_range = true;
  return reader.Range(path, &out->low, &out->high);
}
bool ReadFloatRange(HeaderReader& reader, const Path& path, TensorDescription* out) {
  out->has_float_range = true;
  return reader.RealRange(path, &out->float_low, &out->float_high);
}
constexpr auto kDescriptionFields = std::to_array<Field<TensorDescription>>({
    {"name", true, Into<&TensorDescription::name, &R::Name>},
    {"dtype", true, IntoEnum<&TensorDescription::dtype, kDTypeNames>},
    {"dims", true, IntoArray<&TensorDescription::dims, &R::Name, kMaxRank>},
    {"range", false, ReadRange},
    {"range_to_sequence", false, Into<&TensorDescription::range_to_sequence, &R::Bool>},
    {"float_range", false, ReadFloatRange},
});

constexpr auto kModelFields = std::to_array<Field<ModelDescription>>({
    {"name", true, Into<&ModelDescription::name, &R::Name>},
    {"inputs", false, IntoMaps<&ModelDescription::inputs, kDescriptionFields, kMaxTensors>},
    {"outputs", false, IntoMaps<&ModelDescription::outputs, kDescriptionFields, kMaxTensors>},
    {"batch", false, IntoArray<&ModelDescription::batch_sizes, &R::Size, kMaxBucketSizes>},
    {"sequence", false, IntoArray<&ModelDescription::sequence_lengths, &R::Size, kMaxBucketSizes>},
    {"qos_us", false, Into<&ModelDescription::qos_us, &R::Uint64>},
    {"batchable", false, Into<&ModelDescription::batchable, &R::Bool>},
    {"sequence_padding", false, Into<&ModelDescription::sequence_padding, &R::Name>},
    {"digest", false, Into<&ModelDescription::digest, &R::Name>},
});

constexpr auto kServiceFields = std::to_array<Field<ServiceHealth>>({
    {"name", true, Into<&ServiceHealth::name, &R::Name>},
    {"state", true, Into<&ServiceHealth::state, &R::Name>},
    {"pid", false, Into<&ServiceHealth::worker_pid, &R::Int64>},
    {"queued", false, Into<&ServiceHealth::queued, &R::Uint64>},
    {"restarts", false, Into<&ServiceHealth::restarts, &R::Uint64>},
    {"message", false, Into<&ServiceHealth::message, &R::Text>},
});

constexpr auto kReplyFields = std::to_array<Field<Reply>>({
    {"v", true, Checked<Reply>},
    {"id", true, Into<&Reply::id, &R::Uint64>},
    {"status", true, IntoEnum<&Reply::status, kWireStatusNames>},
    {"message", false, Into<&Reply::message, &R::Text>},
    {"field", false, Into<&Reply::field, &R::Text>},
    {"model", false, Into<&Reply::model, &R::Name>},
    {"outputs", false, IntoMaps<&Reply::outputs, kTensorFields, kMaxTensors>},
    {"timing", false, ReadTiming},
    {"digest", false, Into<&Reply::digest, &R::Name>},
    {"models", false, IntoMaps<&Reply::models, kModelFields, kMaxServices>},
    {"ready", false, Into<&Reply::ready, &R::Bool>},
    {"services", false, IntoMaps<&Reply::services, kServiceFields, kMaxServices>},
    {"max_frame_bytes", false, Into<&Reply::max_frame_bytes, &R::Uint64>},
    {"max_message_bytes", false, Into<&Reply::max_message_bytes, &R::Uint64>},
});

// To default values; vectors and strings keep their capacity.
void Reset(Request* out) {
  out->type = RequestType::kInfer;
  out->id = 0;
  out->model.clear();
  out->qos_us = 0;
  out->inputs.clear();
  out->synthetic = false;
  out->batch = 0;
  out->sequence = 0;
}
void Reset(Reply* out) {
  out->id = 0;
  out->status = StatusCode::kOk;
  out->message.clear();
  out->field.clear();
  out->model.clear();
  out->outputs.clear();
  out->timing = {};
  out->digest.clear();
  out->models.clear();
  out->ready = false;
  out->services.clear();
  out->max_frame_bytes = 0;
  out->max_message_bytes = 0;
}

bool CheckVersion(std::span<const Value> values, HeaderReader& reader) {
  const Value* version = FindTopLevel(values, "v");
  if (version != nullptr && version->kind == Kind::kUnsigned && version->number == kVersion) return true;
  std::string found = "is missing";
  if (version != nullptr) {
    found = version->kind == Kind::kUnsigned ? "is " + std::to_string(version->number) : "must be an integer";
  }
  const Path header;
  return reader.Fail({&header, "v"}, found + "; this side speaks version " + std::to_string(kVersion));
}

template <class T, size_t N>
tl::expected<void, DecodeError> Decode(std::span<const std::byte> bytes, size_t max_values,
                                       const std::array<Field<T>, N>& fields, T* out) {
  Reset(out);
  std::vector<Value> values;
  values.reserve(64);  // enough for a query with two inputs
  DecodeError error;
  HeaderReader reader({}, &error);
  if (std::string wrong = ParseHeader(bytes, max_values, &values); !wrong.empty()) {
    reader.Fail({}, std::move(wrong));
  } else {
    reader = HeaderReader(values, &error);
    const bool is_map = values[0].kind == Kind::kMap;  // where it is not, Map says so
    if ((!is_map || CheckVersion(values, reader)) && reader.Map({}, fields, out)) return {};
  }
  if (const Value* id = FindTopLevel(values, "id"); id != nullptr && id->kind == Kind::kUnsigned) {
    error.has_id = true;
    error.id = id->number;
  }
  return tl::unexpected(std::move(error));
}

// Encoding.

struct StringSink {
  std::string* out;
  void write(const char* data, size_t size) { out->append(data, size); }
};

// Appends msgpack to a string.
class Writer {
 public:
  explicit Writer(std::string* out) : out_(out), sink_{out}, packer_(sink_) {}

  // Calls body(), whose Key() calls are the map's entries: at most 15, so that the count fits the first byte.
  template <class Body>
  void Map(Body body) {
    const size_t first_byte = out_->size();
    const uint32_t outer_keys = std::exchange(keys_, 0);
    packer_.pack_map(0);
    body();
    (*out_)[first_byte] = static_cast<char>(0x80 | keys_);
    keys_ = outer_keys;
  }
  Writer& Key(std::string_view key) {
    ++keys_;
    String(key);
    return *this;
  }
  template <class Range, class WriteOne>
  void Array(const Range& range, WriteOne write_one) {
    packer_.pack_array(static_cast<uint32_t>(range.size()));
    for (const auto& entry : range) write_one(entry);
  }
  void Unsigned(uint64_t number) { packer_.pack_uint64(number); }
  void Signed(int64_t number) { packer_.pack_int64(number); }
  // Always as a float of 64 bits: the packer makes integers of whole numbers.
  void Real(double number) {
    out_->push_back('\xcb');
    for (int shift = 56; shift >= 0; shift -= 8) {
      out_->push_back(static_cast<char>(std::bit_cast<uint64_t>(number) >> shift));
    }
  }
  void True() { packer_.pack_true(); }
  void False() { packer_.pack_false(); }
  void String(std::string_view text) {
    packer_.pack_str(static_cast<uint32_t>(text.size()));
    packer_.pack_str_body(text.data(), static_cast<uint32_t>(text.size()));
  }
  // Optional entries: left out when empty or zero.
  void MaybeUnsigned(std::string_view key, uint64_t number) {
    if (number != 0) Key(key).Unsigned(number);
  }
  void MaybeString(std::string_view key, std::string_view text) {
    if (!text.empty()) Key(key).String(text);
  }
  template <class Range, class WriteOne>
  void MaybeArray(std::string_view key, const Range& range, WriteOne write_one) {
    if (!range.empty()) Key(key).Array(range, write_one);
  }

 private:
  std::string* out_;
  StringSink sink_;
  msgpack::packer<StringSink> packer_;
  uint32_t keys_ = 0;  // of the map being written
};

void Write(Writer& w, const TensorHeader& tensor) {
  w.Map([&] {
    w.Key("name").String(tensor.name);
    w.Key("dtype").String(DTypeName(tensor.dtype));
    w.Key("shape").Array(tensor.shape.dims(), [&](int64_t dim) { w.Signed(dim); });
  });
}

void Write(Writer& w, const Timing& timing) {
  w.Map([&] {
    w.MaybeUnsigned("queued_us", timing.queued_us);
    w.MaybeUnsigned("executed_us", timing.executed_us);
    w.MaybeUnsigned("total_us", timing.total_us);
    w.MaybeUnsigned("rounds", timing.rounds);
    w.MaybeUnsigned("predicted_us", timing.predicted_us);
  });
}

void Write(Writer& w, const TensorDescription& tensor) {
  w.Map([&] {
    w.Key("name").String(tensor.name);
    w.Key("dtype").String(DTypeName(tensor.dtype));
    w.Key("dims").Array(tensor.dims, [&](const std::string& dim) { w.String(dim); });
    if (tensor.has_range) {
      w.Key("range").Array(std::array{tensor.low, tensor.high}, [&](int64_t bound) { w.Signed(bound); });
    }
    if (tensor.range_to_sequence) w.Key("range_to_sequence").True();
    if (tensor.has_float_range) {
      w.Key("float_range").Array(std::array{tensor.float_low, tensor.float_high}, [&](double bound) { w.Real(bound); });
    }
  });
}

void Write(Writer& w, const ModelDescription& model) {
  const auto write_tensor = [&](const TensorDescription& tensor) { Write(w, tensor); };
  const auto write_size = [&](int64_t size) { w.Signed(size); };
  w.Map([&] {
    w.Key("name").String(model.name);
    w.MaybeArray("inputs", model.inputs, write_tensor);
    w.MaybeArray("outputs", model.outputs, write_tensor);
    w.MaybeArray("batch", model.batch_sizes, write_size);
    w.MaybeArray("sequence", model.sequence_lengths, write_size);
    w.MaybeUnsigned("qos_us", model.qos_us);
    if (!model.batchable) w.Key("batchable").False();
    w.MaybeString("sequence_padding", model.sequence_padding);
    w.MaybeString("digest", model.digest);
  });
}

void Write(Writer& w, const ServiceHealth& service) {
  w.Map([&] {
    w.Key("name").String(service.name);
    w.Key("state").String(service.state);
    if (service.worker_pid != 0) w.Key("pid").Signed(service.worker_pid);
    w.MaybeUnsigned("queued", service.queued);
    w.MaybeUnsigned("restarts", service.restarts);
    w.MaybeString("message", CleanText(service.message));
  });
}

}  // namespace

void EncodeRequest(const Request& request, std::string* out) {
  out->clear();
  Writer w(out);
  w.Map([&] {
    w.Key("v").Unsigned(kVersion);
    w.Key("type").String(kRequestTypeNames[static_cast<size_t>(request.type)]);
    w.Key("id").Unsigned(request.id);
    w.MaybeString("model", request.model);
    w.MaybeUnsigned("qos_us", request.qos_us);
    w.MaybeArray("inputs", request.inputs, [&](const TensorHeader& tensor) { Write(w, tensor); });
    if (request.synthetic) {
      w.Key("synthetic").Map([&] {
        w.Key("batch").Unsigned(request.batch);
        w.MaybeUnsigned("sequence", request.sequence);
      });
    }
  });
}

void EncodeReply(const Reply& reply, std::string* out) {
  const bool on_wire = static_cast<size_t>(reply.status) < kWireStatusCount;
  out->clear();
  Writer w(out);
  w.Map([&] {
    w.Key("v").Unsigned(kVersion);
    w.Key("id").Unsigned(reply.id);
    w.Key("status").String(StatusCodeName(on_wire ? reply.status : StatusCode::kInternal));
    w.MaybeString("message", CleanText(reply.message));
    w.MaybeString("field", CleanText(reply.field));
    w.MaybeString("model", reply.model);
    w.MaybeArray("outputs", reply.outputs, [&](const TensorHeader& tensor) { Write(w, tensor); });
    if (reply.timing != Timing{}) Write(w.Key("timing"), reply.timing);
    w.MaybeString("digest", reply.digest);
    w.MaybeArray("models", reply.models, [&](const ModelDescription& model) { Write(w, model); });
    if (reply.ready) w.Key("ready").True();
    w.MaybeArray("services", reply.services, [&](const ServiceHealth& service) { Write(w, service); });
    w.MaybeUnsigned("max_frame_bytes", reply.max_frame_bytes);
    w.MaybeUnsigned("max_message_bytes", reply.max_message_bytes);
  });
}

tl::expected<void, DecodeError> DecodeRequest(std::span<const std::byte> bytes, Request* out) {
  auto decoded = Decode(bytes, kMaxRequestValues, kRequestFields, out);
  if (!decoded) return decoded;
  const auto fail = [&](std::string field, std::string message) {
    return tl::unexpected(DecodeError{std::move(field), std::move(message), true, out->id});
  };
  if (out->type == RequestType::kInfer && out->model.empty()) return fail("model", "is missing");
  if (out->synthetic && !out->inputs.empty()) return fail("inputs", "must be absent in a synthetic query");
  return decoded;
}

tl::expected<void, DecodeError> DecodeReply(std::span<const std::byte> bytes, Reply* out) {
  return Decode(bytes, kMaxHeaderBytes, kReplyFields, out);
}

}  // namespace abacus::protocol
