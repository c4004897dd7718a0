#include "client/protocol.h"

#include <array>
#include <optional>
#include <utility>

#include "client/header_reader.h"
#include "client/header_writer.h"

namespace abacus::protocol {
namespace {

constexpr std::array<std::string_view, 4> kRequestTypeNames = {"infer", "models", "health", "cancel"};
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

bool ReadOffset(HeaderReader& reader, const Path& path, TensorHeader* out) {
  return reader.Uint64(path, &out->offset.emplace());
}
constexpr auto kInputFields = std::to_array<Field<TensorHeader>>({
    {"name", true, Into<&TensorHeader::name, &R::Name>},
    {"dtype", true, IntoEnum<&TensorHeader::dtype, kDTypeNames>},
    {"shape", true, Into<&TensorHeader::shape, &R::TensorShape>},
    {"region", false, Into<&TensorHeader::region, &R::Uint64>},
    {"offset", false, ReadOffset},
});
constexpr auto kOutputFields = std::to_array<Field<TensorHeader>>({
    {"name", true, Into<&TensorHeader::name, &R::Name>},
    {"dtype", true, IntoEnum<&TensorHeader::dtype, kDTypeNames>},
    {"shape", true, Into<&TensorHeader::shape, &R::TensorShape>},
    {"offset", false, ReadOffset},
});

bool ReadInput(HeaderReader& reader, const Path& path, TensorHeader* out) {
  if (!reader.Map(path, kInputFields, out)) return false;
  const bool placed = out->region != 0;
  if (placed == out->offset.has_value()) return true;
  return reader.Fail({&path, placed ? "offset" : "region"}, "is missing: a place in a region has both");
}
bool ReadInputs(HeaderReader& reader, const Path& path, Request* out) {
  return reader.Array(path, kMaxTensors, &out->inputs,
                      [&](const Path& child, TensorHeader* entry) { return ReadInput(reader, child, entry); });
}

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
    {"inputs", false, ReadInputs},
    {"outputs_region", false, Into<&Request::outputs_region, &R::Uint64>},
    {"outputs_offset", false, Into<&Request::outputs_offset, &R::Uint64>},
    {"outputs_bytes", false, Into<&Request::outputs_bytes, &R::Uint64>},
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
    {"outputs", false, IntoMaps<&Reply::outputs, kOutputFields, kMaxTensors>},
    {"timing", false, ReadTiming},
    {"digest", false, Into<&Reply::digest, &R::Name>},
    {"models", false, IntoMaps<&Reply::models, kModelFields, kMaxServices>},
    {"ready", false, Into<&Reply::ready, &R::Bool>},
    {"services", false, IntoMaps<&Reply::services, kServiceFields, kMaxServices>},
    {"max_frame_bytes", false, Into<&Reply::max_frame_bytes, &R::Uint64>},
    {"max_message_bytes", false, Into<&Reply::max_message_bytes, &R::Uint64>},
    {"lease", false, Into<&Reply::lease, &R::Text>},
});

// To default values; vectors and strings keep their capacity.
void Reset(Request* out) {
  out->type = RequestType::kInfer;
  out->id = 0;
  out->model.clear();
  out->qos_us = 0;
  out->inputs.clear();
  out->outputs_region = 0;
  out->outputs_offset = 0;
  out->outputs_bytes = 0;
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
  out->lease.clear();
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

void Write(HeaderWriter& w, const TensorHeader& tensor) {
  w.Map([&] {
    w.Key("name").String(tensor.name);
    w.Key("dtype").String(DTypeName(tensor.dtype));
    w.Key("shape").Array(tensor.shape.dims(), [&](int64_t dim) { w.Signed(dim); });
    w.MaybeUnsigned("region", tensor.region);
    if (tensor.offset) w.Key("offset").Unsigned(*tensor.offset);  // 0 is one, too
  });
}

void Write(HeaderWriter& w, const Timing& timing) {
  w.Map([&] {
    w.MaybeUnsigned("queued_us", timing.queued_us);
    w.MaybeUnsigned("executed_us", timing.executed_us);
    w.MaybeUnsigned("total_us", timing.total_us);
    w.MaybeUnsigned("rounds", timing.rounds);
    w.MaybeUnsigned("predicted_us", timing.predicted_us);
  });
}

void Write(HeaderWriter& w, const TensorDescription& tensor) {
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

void Write(HeaderWriter& w, const ModelDescription& model) {
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

void Write(HeaderWriter& w, const ServiceHealth& service) {
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
  HeaderWriter w(out);
  w.Map([&] {
    w.Key("v").Unsigned(kVersion);
    w.Key("type").String(kRequestTypeNames[static_cast<size_t>(request.type)]);
    w.Key("id").Unsigned(request.id);
    w.MaybeString("model", request.model);
    w.MaybeUnsigned("qos_us", request.qos_us);
    w.MaybeArray("inputs", request.inputs, [&](const TensorHeader& tensor) { Write(w, tensor); });
    w.MaybeUnsigned("outputs_region", request.outputs_region);
    w.MaybeUnsigned("outputs_offset", request.outputs_offset);
    w.MaybeUnsigned("outputs_bytes", request.outputs_bytes);
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
  HeaderWriter w(out);
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
    w.MaybeString("lease", CleanText(reply.lease));
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
  if (out->synthetic && out->outputs_region != 0) return fail("outputs_region", "must be absent in a synthetic query");
  if (out->outputs_region == 0 && (out->outputs_offset != 0 || out->outputs_bytes != 0)) {
    return fail("outputs_region", "is missing: outputs_offset and outputs_bytes are a place in it");
  }
  return decoded;
}

tl::expected<void, DecodeError> DecodeReply(std::span<const std::byte> bytes, Reply* out) {
  return Decode(bytes, kMaxHeaderBytes, kReplyFields, out);
}

}  // namespace abacus::protocol
