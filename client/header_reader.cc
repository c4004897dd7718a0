#include "client/header_reader.h"

#include <cmath>
#include <msgpack.hpp>
#include <optional>
#include <utility>

namespace abacus::protocol {
namespace {

// Length in bytes of the well-formed UTF-8 sequence at the front of `text`, or 0 where there is none.
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xed && byte(1) > 0x9f;
  const bool beyond_last = lead == 0xf4 && byte(1) > 0x8f;
  return overlong || surrogate || beyond_last ? 0 : length;
}

bool Printable(char c) { return c >= 0x20 && c < 0x7f; }

// `text` in quotes, short and printable, for an error message about bytes that nobody vouches for.
std::string Quote(std::string_view text) {
  constexpr size_t kShown = 40;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string quoted = "'";
  for (char c : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (Printable(c)) {
      quoted += c;
    } else {
      quoted += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return quoted + (text.size() > kShown ? "...'" : "'");
}

std::string KindName(Kind kind) {
  constexpr std::array<const char*, 9> kNames = {"nil",     "a boolean",   "an integer", "a negative integer",
                                                 "a float", "binary data", "a string",   "an array",
                                                 "a map"};
  return kNames[static_cast<size_t>(kind)];
}

// Called by msgpack::parse for each value; returning false stops the parse.
class Collector : public msgpack::null_visitor {
 public:
  Collector(std::vector<Value>* values, size_t max_values) : values_(values), max_values_(max_values) {}

  bool visit_nil() { return Add(Kind::kNil); }
  bool visit_boolean(bool v) { return Add(Kind::kBool, 0, v ? 1 : 0); }
  bool visit_positive_integer(uint64_t v) { return Add(Kind::kUnsigned, 0, v); }
  bool visit_negative_integer(int64_t v) {  // also called for values >= 0 in a signed encoding
    return Add(v < 0 ? Kind::kNegative : Kind::kUnsigned, 0, static_cast<uint64_t>(v));
  }
  bool visit_float32(float v) { return visit_float64(v); }
  bool visit_float64(double v) {
    if (!Add(Kind::kFloat)) return false;
    values_->back().real = v;
    return true;
  }
  bool visit_bin(const char*, uint32_t) { return Add(Kind::kBinary); }
  bool visit_ext(const char*, uint32_t) { return Add(Kind::kBinary); }
  bool visit_str(const char* data, uint32_t size) {
    if (!Add(Kind::kString, size)) return false;
    values_->back().data = data;
    return true;
  }
  bool start_array(uint32_t size) { return Open(Kind::kArray, size); }
  bool start_map(uint32_t size) { return Open(Kind::kMap, size); }
  bool end_array() { return Close(); }
  bool end_map() { return Close(); }
  void parse_error(size_t, size_t offset) { error_ = "is no msgpack at byte " + std::to_string(offset); }
  void insufficient_bytes(size_t, size_t offset) { error_ = "is cut off at byte " + std::to_string(offset); }

  const std::string& error() const { return error_; }

 private:
  bool Add(Kind kind, uint32_t size = 0, uint64_t number = 0) {
    if (values_->size() == max_values_) return Fail("has more than " + std::to_string(max_values_) + " values");
    Value& value = values_->emplace_back();
    value.kind = kind;
    value.size = size;
    value.number = number;
    return true;
  }
  bool Open(Kind kind, uint32_t size) {
    if (++depth_ > kMaxDepth) return Fail("is nested deeper than " + std::to_string(kMaxDepth));
    if (size > kMaxEntries) {
      return Fail("has " + KindName(kind) + " of " + std::to_string(size) + " entries; at most " +
                  std::to_string(kMaxEntries) + " are allowed");
    }
    return Add(kind, size);
  }
  bool Close() {
    --depth_;
    return true;
  }
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  std::vector<Value>* values_;
  const size_t max_values_;
  size_t depth_ = 0;
  std::string error_;
};

// Index after the value at `at` and all that it holds, or nullopt where the list ends first.
std::optional<size_t> After(std::span<const Value> values, size_t at) {
  for (uint64_t open = 1; open > 0; --open, ++at) {
    if (at >= values.size()) return std::nullopt;
    if (values[at].kind == Kind::kArray) open += values[at].size;
    if (values[at].kind == Kind::kMap) open += uint64_t{2} * values[at].size;
  }
  return at;
}

}  // namespace

std::string CleanText(std::string_view text) {
  std::string clean(text.substr(0, kMaxMessageBytes));
  for (size_t i = 0; i < clean.size();) {
    const size_t length = Utf8Length(std::string_view{clean}.substr(i));
    if (length == 0) clean[i] = '?';
    i += std::max<size_t>(length, 1);
  }
  return clean;
}

std::string ParseHeader(std::span<const std::byte> bytes, size_t max_values, std::vector<Value>* values) {
  if (bytes.empty()) return "is empty";
  if (bytes.size() > kMaxHeaderBytes) {
    return "has " + std::to_string(bytes.size()) + " bytes; at most " + std::to_string(kMaxHeaderBytes) +
           " are allowed";
  }
  Collector collector(values, max_values);
  size_t end = 0;
  if (!msgpack::parse(reinterpret_cast<const char*>(bytes.data()), bytes.size(), end, collector)) {
    return collector.error();
  }
  if (end != bytes.size()) return "is followed by " + std::to_string(bytes.size() - end) + " more bytes";
  return "";
}

const Value* FindTopLevel(std::span<const Value> values, std::string_view key) {
  if (values.empty() || values[0].kind != Kind::kMap) return nullptr;
  std::optional<size_t> at = 1;
  for (uint32_t i = 0; i < values[0].size && at && *at + 1 < values.size(); ++i) {
    const Value& name = values[*at];
    if (name.kind == Kind::kString && name.text() == key) return &values[*at + 1];
    at = After(values, *at);
    if (at) at = After(values, *at);
  }
  return nullptr;
}

std::string Path::ToString() const {
  if (parent == nullptr) return "";
  std::string text = parent->ToString();
  if (key.data() == nullptr) return text + "[" + std::to_string(index) + "]";
  if (!text.empty()) text += '.';
  if (key.empty()) text += "\"\"";  // a key without characters must not make a path without any
  for (char c : key.substr(0, kMaxNameBytes)) text += Printable(c) ? c : '?';
  return text;
}

bool HeaderReader::Fail(const Path& path, std::string message) {
  error_->field = path.parent == nullptr ? "header" : path.ToString();
  error_->message = std::move(message);
  return false;
}

const Value* HeaderReader::Take(const Path& path, Kind kind) {
  const Value& value = values_[at_];
  if (value.kind != kind) {
    Fail(path, "must be " + KindName(kind) + ", not " + KindName(value.kind));
    return nullptr;
  }
  ++at_;
  return &value;
}

const Value* HeaderReader::TakeArray(const Path& path, size_t max_entries) {
  const Value* array = Take(path, Kind::kArray);
  if (array == nullptr || array->size <= max_entries) return array;
  Fail(path,
       "has " + std::to_string(array->size) + " entries; at most " + std::to_string(max_entries) + " are allowed");
  return nullptr;
}

bool HeaderReader::Unknown(const Path& path, std::string_view what, std::string_view found, std::string_view allowed) {
  return Fail(path, "unknown " + std::string(what) + " " + Quote(found) + "; one of " + std::string(allowed));
}

bool HeaderReader::Skip(const Path& path) {
  const size_t begin = at_;
  at_ = After(values_, at_).value_or(values_.size());
  const auto skipped = values_.subspan(begin, at_ - begin);
  const bool binary =
      std::any_of(skipped.begin(), skipped.end(), [](const Value& v) { return v.kind == Kind::kBinary; });
  return binary ? Fail(path, "holds binary data; a header has none") : true;
}

bool HeaderReader::Bool(const Path& path, bool* out) {
  const Value* value = Take(path, Kind::kBool);
  if (value != nullptr) *out = value->number != 0;
  return value != nullptr;
}

bool HeaderReader::Uint64(const Path& path, uint64_t* out) {
  const Value* value = Take(path, Kind::kUnsigned);
  if (value != nullptr) *out = value->number;
  return value != nullptr;
}

bool HeaderReader::Uint32(const Path& path, uint32_t* out) {
  uint64_t number = 0;
  if (!Uint64(path, &number)) return false;
  *out = static_cast<uint32_t>(number);
  return number == *out ? true : Fail(path, "must be below 2^32, not " + std::to_string(number));
}

bool HeaderReader::Int64(const Path& path, int64_t* out) {
  if (values_[at_].kind == Kind::kNegative) {
    *out = values_[at_++].negative;
    return true;
  }
  uint64_t number = 0;
  if (!Uint64(path, &number)) return false;
  *out = static_cast<int64_t>(number);
  return *out >= 0 ? true : Fail(path, "must be below 2^63, not " + std::to_string(number));
}

bool HeaderReader::Size(const Path& path, int64_t* out) {
  if (values_[at_].kind == Kind::kNegative) {
    return Fail(path, "must not be negative: " + std::to_string(values_[at_].negative));
  }
  return Int64(path, out);
}

bool HeaderReader::Name(const Path& path, std::string* out) {
  const Value* value = Take(path, Kind::kString);
  if (value == nullptr) return false;
  const std::string_view text = value->text();
  if (text.empty() || text.size() > kMaxNameBytes) {
    return Fail(path, "must have 1 to " + std::to_string(kMaxNameBytes) + " bytes, not " + std::to_string(text.size()));
  }
  if (!std::all_of(text.begin(), text.end(), Printable))
    return Fail(path, "must be printable ASCII, not " + Quote(text));
  *out = text;
  return true;
}

bool HeaderReader::Text(const Path& path, std::string* out) {
  const Value* value = Take(path, Kind::kString);
  if (value != nullptr) *out = CleanText(value->text());
  return value != nullptr;
}

bool HeaderReader::TensorShape(const Path& path, Shape* out) {
  const Value* array = TakeArray(path, kMaxRank);
  if (array == nullptr) return false;
  *out = Shape();
  for (size_t i = 0; i < array->size; ++i) {
    int64_t dim = 0;
    if (!Size(Path{&path, {}, i}, &dim)) return false;
    out->push_back(dim);
  }
  return out->Elements() ? true : Fail(path, "has too many elements: " + out->ToString());
}

bool HeaderReader::Real(const Path& path, double* out) {
  if (values_[at_].kind == Kind::kNegative) {
    *out = static_cast<double>(values_[at_++].negative);
    return true;
  }
  if (values_[at_].kind == Kind::kUnsigned) {
    *out = static_cast<double>(values_[at_++].number);
    return true;
  }
  const Value* value = Take(path, Kind::kFloat);
  if (value == nullptr) return false;
  *out = value->real;
  return std::isfinite(*out) ? true : Fail(path, "must be finite");
}

template <class T>
bool HeaderReader::Pair(const Path& path, bool (HeaderReader::*read)(const Path&, T*), T* low, T* high) {
  const Value* array = TakeArray(path, 2);
  if (array == nullptr) return false;
  if (array->size != 2) return Fail(path, "must be [low, high]");
  if (!(this->*read)(Path{&path, {}, 0}, low) || !(this->*read)(Path{&path, {}, 1}, high)) return false;
  return *low <= *high ? true : Fail(path, "must be [low, high] with low <= high");
}

bool HeaderReader::Range(const Path& path, int64_t* low, int64_t* high) {
  return Pair(path, &HeaderReader::Int64, low, high);
}

bool HeaderReader::RealRange(const Path& path, double* low, double* high) {
  return Pair(path, &HeaderReader::Real, low, high);
}

}  // namespace abacus::protocol
