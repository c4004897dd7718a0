// TableReader: typed, bounded reads from a TOML table. The configuration and the model specs both read through it, so a
// mistake looks the same everywhere:
//
//   configs/default.toml:14: server.io_threads: must be an integer from 1 to 16, not 99
//
// A reader remembers its first error and ignores every later read, so callers list their keys and look once, at
// Finish(). Finish() also refuses keys that nobody asked for and reports required keys that are missing.
//
// Ownership: a reader points into a document that must outlive it. Thread rule: one thread. Errors: kInvalidArgument
// with FILE:LINE and the key; kNotFound when a file cannot be opened.
#ifndef ABACUS_MODELS_TOML_READER_H_
#define ABACUS_MODELS_TOML_READER_H_

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/toml_text.h"

namespace abacus {

// Which characters a name may have, with its longest length in bytes.
enum class NameKind : uint8_t {
  kFile,     // letters, digits, '_' and '-': becomes part of a path
  kService,  // the same and '.'
  kTensor,   // printable ASCII without blanks
};

// What a key for a duration takes. Bounds are inclusive.
struct DurationRule {
  std::string_view unit;  // of the key for numbers: one of kDurationUnits
  uint64_t low_ns = 0;
  uint64_t high_ns = 0;
  uint64_t step_ns = 1;      // only whole multiples of it
  bool may_be_auto = false;  // "auto", as a number -1: kAutoDuration
};
inline constexpr uint64_t kAutoDuration = UINT64_MAX;

class TableReader {
 public:
  // `path` is the table's dotted name in messages, "" for the root; `source` stands for FILE where a table has no
  // position of its own.
  TableReader(const toml::table* table, std::string path, std::string source);

  // One key each. True: present and valid, *out is set. False: absent or wrong, *out is as before. Bounds are
  // inclusive.
  template <std::integral T>
  bool Integer(std::string_view key, int64_t low, int64_t high, T* out) {
    int64_t value = 0;
    if (!ReadInteger(key, low, high, &value)) return false;
    *out = static_cast<T>(value);
    return true;
  }
  bool Bool(std::string_view key, bool* out);
  // An integer or a finite float.
  bool Number(std::string_view key, double low, double high, double* out);
  // A duration, as either of two keys: `name` is a text with a unit, such as qos = "50ms"; `name`_`unit` is a number in
  // that unit, such as qos_ms = 50, or a text as well. Both together are an error.
  bool Duration(std::string_view name, const DurationRule& rule, uint64_t* out_ns);
  // An integer in some unit, stored as value * scale.
  bool ScaledInteger(std::string_view key, int64_t low, int64_t high, uint64_t scale, uint64_t* out);
  bool String(std::string_view key, std::string* out);  // not empty
  bool Name(std::string_view key, NameKind kind, size_t max_bytes, std::string* out);
  // One of `choices`; *out is its index.
  bool OneOf(std::string_view key, std::span<const std::string_view> choices, size_t* out);
  // Strictly ascending integers, at least one.
  bool Ascending(std::string_view key, int64_t low, int64_t high, std::vector<int64_t>* out);
  // An array of strings; a lone string counts as an array of one.
  bool Strings(std::string_view key, std::vector<std::string>* out);
  // A device, or an array of them: an index from 0 to `high`, or a name such as a UUID (letters, digits and '-'). As
  // text.
  bool Devices(std::string_view key, int64_t high, std::vector<std::string>* out);
  // Any array; nullptr when absent or something else.
  const toml::array* Array(std::string_view key);
  // A sub-table: a reader of it, or of an empty table when it is absent (has_table() tells).
  TableReader Table(std::string_view key);
  // An array of tables with at most `max` elements: one reader each.
  std::vector<TableReader> Tables(std::string_view key, size_t max);

  // Finish() fails when this key is absent; `hint` says what it is for.
  void Require(std::string_view key, std::string_view hint);

  // Records an error about a key of this table (or about the table where the key is absent), or about one node of it.
  void Fail(std::string_view key, std::string_view message);
  void FailAt(const toml::node& node, std::string_view key, std::string_view message);

  bool has_table() const { return table_ != nullptr; }
  bool has(std::string_view key) const { return table_ != nullptr && table_->contains(key); }
  bool failed() const { return !error_.ok(); }

  // The first error of all reads, else an unknown key, else a missing required key, else OK.
  Status Finish();

 private:
  struct Required {
    std::string key;
    std::string hint;
  };

  // The node of a key, which becomes a known one; nullptr when absent or after an error.
  const toml::node* Find(std::string_view key);
  bool ReadInteger(std::string_view key, int64_t low, int64_t high, int64_t* out);
  std::string KeyPath(std::string_view key) const;

  const toml::table* table_;  // nullptr: absent, reads as empty
  std::string path_;
  std::string source_;
  std::vector<std::string> known_;
  std::vector<Required> required_;
  Status error_;
};

}  // namespace abacus

#endif  // ABACUS_MODELS_TOML_READER_H_
