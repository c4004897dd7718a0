// Reads the msgpack header of a message in two steps. Part of protocol.cc, and of nothing else.
//
// ParseHeader turns bytes into a flat list of values and checks every limit on the form (depth, entries, number of
// values) before memory is taken for what a header merely announces. HeaderReader then walks the list into structs by
// tables of fields, checks types and values, and records the path of whatever is wrong.
//
// Thread rule: plain values; a reader belongs to one thread. Text in a Value or Path points into the header's bytes,
// which must outlive them.
#ifndef ABACUS_CLIENT_HEADER_READER_H_
#define ABACUS_CLIENT_HEADER_READER_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/protocol.h"

namespace abacus::protocol {

// Text for people, as it may stand in a header: invalid UTF-8 becomes '?', because msgpack strings are UTF-8 and a
// client in another language may refuse the whole reply otherwise; what exceeds kMaxMessageBytes is cut.
std::string CleanText(std::string_view text);

enum class Kind : uint8_t { kNil, kBool, kUnsigned, kNegative, kFloat, kBinary, kString, kArray, kMap };

// One msgpack value. Arrays and maps are followed by what they hold, in wire order.
struct Value {
  Kind kind = Kind::kNil;
  uint32_t size = 0;  // bytes of a string, entries of an array or map
  union {
    uint64_t number = 0;  // kUnsigned; kBool: 0 or 1
    int64_t negative;     // kNegative
    double real;          // kFloat
    const char* data;     // kString
  };
  std::string_view text() const { return {data, size}; }
};

// Appends to *values what `bytes` hold, at most `max_values`. Returns what is wrong, or an empty string; the values
// before the error are kept, so that the query id may still be found.
std::string ParseHeader(std::span<const std::byte> bytes, size_t max_values, std::vector<Value>* values);

// The value of `key` in the outermost map, or nullptr. Works on a list that is cut off too.
const Value* FindTopLevel(std::span<const Value> values, std::string_view key);

// Where in the header a value stands. Lives on the stack of the reading functions; made text only for an error.
struct Path {
  const Path* parent = nullptr;
  std::string_view key;  // data() == nullptr: `index` counts
  size_t index = 0;
  std::string ToString() const;
};

class HeaderReader;

// One key of a map, and how its value gets into a T.
template <class T>
struct Field {
  std::string_view key;
  bool required;
  bool (*read)(HeaderReader& reader, const Path& path, T* out);
};

// Reads a complete list of values from its front. Every reading method returns false after recording an error.
class HeaderReader {
 public:
  HeaderReader(std::span<const Value> values, DecodeError* error) : values_(values), error_(error) {}

  // A map with these keys; others are skipped.
  template <class T, size_t N>
  bool Map(const Path& path, const std::array<Field<T>, N>& fields, T* out);
  // Replaces *out by the array's entries; `read_one` is called as read_one(path, T*).
  template <class T, class ReadOne>
  bool Array(const Path& path, size_t max_entries, std::vector<T>* out, ReadOne read_one);
  // A name out of `names`; sets *index.
  template <class Names>
  bool OneOf(const Path& path, std::string_view what, const Names& names, size_t* index);

  bool Skip(const Path& path);
  bool Bool(const Path& path, bool* out);
  bool Uint64(const Path& path, uint64_t* out);
  bool Uint32(const Path& path, uint32_t* out);
  bool Int64(const Path& path, int64_t* out);
  bool Size(const Path& path, int64_t* out);      // a dimension or bucket size: not negative
  bool Name(const Path& path, std::string* out);  // 1 to kMaxNameBytes of printable ASCII
  bool Text(const Path& path, std::string* out);  // for people
  bool TensorShape(const Path& path, Shape* out);
  bool Real(const Path& path, double* out);  // finite; an integer counts as one
  bool Range(const Path& path, int64_t* low, int64_t* high);
  bool RealRange(const Path& path, double* low, double* high);

  // Records an error; returns false.
  bool Fail(const Path& path, std::string message);

 private:
  // The next value where it is of this kind, else nullptr. Never called past the end: the list is complete.
  const Value* Take(const Path& path, Kind kind);
  // The next array's number of entries where that is allowed, else nullptr.
  const Value* TakeArray(const Path& path, size_t max_entries);
  // [low, high], each read by `read`.
  template <class T>
  bool Pair(const Path& path, bool (HeaderReader::*read)(const Path&, T*), T* low, T* high);
  bool Unknown(const Path& path, std::string_view what, std::string_view found, std::string_view allowed);

  std::span<const Value> values_;
  DecodeError* error_;
  size_t at_ = 0;
};

template <class T, size_t N>
bool HeaderReader::Map(const Path& path, const std::array<Field<T>, N>& fields, T* out) {
  const Value* map = Take(path, Kind::kMap);
  if (map == nullptr) return false;
  std::array<bool, N> seen{};
  for (uint32_t i = 0; i < map->size; ++i) {
    const Value* name = Take(path, Kind::kString);
    if (name == nullptr) return false;
    const Path child{&path, name->text()};
    const auto field = std::find_if(fields.begin(), fields.end(), [&](const auto& f) { return f.key == child.key; });
    if (field == fields.end()) {
      if (!Skip(child)) return false;
      continue;
    }
    bool& was_seen = seen[static_cast<size_t>(field - fields.begin())];
    if (was_seen) return Fail(child, "occurs twice");
    was_seen = true;
    if (!field->read(*this, child, out)) return false;
  }
  for (size_t k = 0; k < N; ++k) {
    if (fields[k].required && !seen[k]) return Fail({&path, fields[k].key}, "is missing");
  }
  return true;
}

template <class T, class ReadOne>
bool HeaderReader::Array(const Path& path, size_t max_entries, std::vector<T>* out, ReadOne read_one) {
  const Value* array = TakeArray(path, max_entries);
  if (array == nullptr) return false;
  out->resize(array->size);
  for (size_t i = 0; i < out->size(); ++i) {
    if (!read_one(Path{&path, {}, i}, &(*out)[i])) return false;
  }
  return true;
}

template <class Names>
bool HeaderReader::OneOf(const Path& path, std::string_view what, const Names& names, size_t* index) {
  const Value* value = Take(path, Kind::kString);
  if (value == nullptr) return false;
  const auto found = std::find(names.begin(), names.end(), value->text());
  if (found == names.end()) {
    std::string allowed;
    for (std::string_view name : names) allowed += (allowed.empty() ? "" : ", ") + std::string(name);
    return Unknown(path, what, value->text(), allowed);
  }
  *index = static_cast<size_t>(found - names.begin());
  return true;
}

}  // namespace abacus::protocol

#endif  // ABACUS_CLIENT_HEADER_READER_H_
