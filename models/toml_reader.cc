#include "models/toml_reader.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>
#include <utility>

#include "base/duration.h"

namespace abacus {

namespace {

constexpr size_t kMaxDeviceNameBytes = 60;

std::string Expected(std::string_view what, double low, double high) {
  return "must be " + std::string(what) + " from " + FormatNumber(low) + " to " + FormatNumber(high);
}

std::string Expected(std::string_view what, int64_t low, int64_t high) {
  return "must be " + std::string(what) + " from " + std::to_string(low) + " to " + std::to_string(high);
}

std::string ExpectedDuration(bool may_be_number, const DurationRule& rule) {
  std::string text = "must be a duration from " + FormatDuration(rule.low_ns) + " to " + FormatDuration(rule.high_ns);
  if (may_be_number) {
    const auto unit_ns = static_cast<double>(NsPerUnit(rule.unit));
    const auto in_unit = [unit_ns](uint64_t ns) { return FormatNumber(static_cast<double>(ns) / unit_ns); };
    text = "must be a number of " + std::string(rule.unit) + " from " + in_unit(rule.low_ns) + " to " +
           in_unit(rule.high_ns) + (rule.may_be_auto ? ", -1 for \"auto\"," : "") + " or a duration";
  }
  text += " such as \"50ms\"";
  if (rule.step_ns > 1) text += ", in steps of " + FormatDuration(rule.step_ns);
  return text + (rule.may_be_auto && !may_be_number ? ", or \"auto\"" : "");
}

// Nanoseconds of a node that follows the rule.
std::optional<uint64_t> DurationOf(const toml::node& node, bool may_be_number, const DurationRule& rule) {
  uint64_t ns = 0;
  if (const auto* text = node.as_string()) {
    if (rule.may_be_auto && text->get() == "auto") return kAutoDuration;
    const Result<uint64_t> parsed = ParseDuration(text->get());
    if (!parsed) return std::nullopt;
    ns = *parsed;
  } else {
    double value = std::nan("");
    if (const auto* integer = node.as_integer()) value = static_cast<double>(integer->get());
    if (const auto* floating = node.as_floating_point()) value = floating->get();
    if (!may_be_number || std::isnan(value)) return std::nullopt;
    if (rule.may_be_auto && value == -1) return kAutoDuration;
    const double exact_ns = value * static_cast<double>(NsPerUnit(rule.unit));
    if (exact_ns < 0 || exact_ns > 2 * static_cast<double>(rule.high_ns)) return std::nullopt;  // before it is rounded
    ns = static_cast<uint64_t>(std::llround(exact_ns));
  }
  if (ns < rule.low_ns || ns > rule.high_ns || ns % rule.step_ns != 0) return std::nullopt;
  return ns;
}

bool IsAlphanumeric(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

bool IsNameChar(NameKind kind, char c) {
  switch (kind) {
    case NameKind::kFile:
      return IsAlphanumeric(c) || c == '_' || c == '-';
    case NameKind::kService:
      return IsAlphanumeric(c) || c == '_' || c == '-' || c == '.';
    case NameKind::kTensor:
      return c > ' ' && c <= '~';
  }
  return false;
}

std::string_view NameRule(NameKind kind) {
  switch (kind) {
    case NameKind::kFile:
      return "letters, digits, '_' and '-'";
    case NameKind::kService:
      return "letters, digits, '_', '-' and '.'";
    case NameKind::kTensor:
      return "printable ASCII characters without blanks";
  }
  return "";
}

}  // namespace

TableReader::TableReader(const toml::table* table, std::string path, std::string source)
    : table_(table), path_(std::move(path)), source_(std::move(source)) {}

std::string TableReader::KeyPath(std::string_view key) const {
  if (path_.empty()) return std::string(key);
  if (key.empty()) return path_;
  return path_ + "." + std::string(key);
}

const toml::node* TableReader::Find(std::string_view key) {
  known_.emplace_back(key);
  if (failed() || table_ == nullptr) return nullptr;
  return table_->get(key);
}

void TableReader::Fail(std::string_view key, std::string_view message) {
  if (failed()) return;
  const toml::node* node = table_ == nullptr ? nullptr : table_->get(key);
  if (node == nullptr) node = table_;
  const std::string where = node == nullptr ? source_ + ":1" : Location(node->source(), source_);
  error_ = Status(StatusCode::kInvalidArgument, where + ": " + KeyPath(key) + ": " + std::string(message));
}

void TableReader::FailAt(const toml::node& node, std::string_view key, std::string_view message) {
  if (failed()) return;
  error_ = Status(StatusCode::kInvalidArgument,
                  Location(node.source(), source_) + ": " + KeyPath(key) + ": " + std::string(message));
}

bool TableReader::ReadInteger(std::string_view key, int64_t low, int64_t high, int64_t* out) {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  const auto* value = node->as_integer();
  if (value == nullptr || value->get() < low || value->get() > high) {
    Fail(key, Expected("an integer", low, high) + ", not " + DescribeNode(*node));
    return false;
  }
  *out = value->get();
  return true;
}

bool TableReader::Bool(std::string_view key, bool* out) {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  const auto* value = node->as_boolean();
  if (value == nullptr) {
    Fail(key, "must be true or false, not " + DescribeNode(*node));
    return false;
  }
  *out = value->get();
  return true;
}

bool TableReader::Number(std::string_view key, double low, double high, double* out) {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  double value = std::nan("");
  if (const auto* integer = node->as_integer()) value = static_cast<double>(integer->get());
  if (const auto* floating = node->as_floating_point()) value = floating->get();
  if (!(value >= low && value <= high)) {  // also refuses NaN
    Fail(key, Expected("a number", low, high) + ", not " + DescribeNode(*node));
    return false;
  }
  *out = value;
  return true;
}

bool TableReader::Duration(std::string_view name, const DurationRule& rule, uint64_t* out_ns) {
  const std::string number_key = std::string(name) + "_" + std::string(rule.unit);
  const toml::node* text = Find(name);
  const toml::node* number = Find(number_key);
  if (text != nullptr && number != nullptr) {
    Fail(number_key, "means the same as " + KeyPath(name) + "; keep one of them");
    return false;
  }
  if (text == nullptr && number == nullptr) return false;
  const std::string_view key = text != nullptr ? name : std::string_view(number_key);
  const toml::node& node = text != nullptr ? *text : *number;
  const std::optional<uint64_t> ns = DurationOf(node, number != nullptr, rule);
  if (ns) {
    *out_ns = *ns;
    return true;
  }
  std::string what = ExpectedDuration(number != nullptr, rule) + ", not " + DescribeNode(node);
  if (const auto* value = node.as_string(); value != nullptr && !ParseDuration(value->get())) {
    what += "; a duration is a number and one of " + std::string(kDurationUnits);
  }
  Fail(key, what);
  return false;
}

bool TableReader::ScaledInteger(std::string_view key, int64_t low, int64_t high, uint64_t scale, uint64_t* out) {
  uint64_t value = 0;
  if (!Integer(key, low, high, &value)) return false;
  *out = value * scale;
  return true;
}

bool TableReader::String(std::string_view key, std::string* out) {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  const auto* value = node->as_string();
  if (value == nullptr || value->get().empty() || value->get().find('\0') != std::string::npos) {
    Fail(key, "must be a string with at least one character, not " + DescribeNode(*node));
    return false;
  }
  *out = value->get();
  return true;
}

bool TableReader::Name(std::string_view key, NameKind kind, size_t max_bytes, std::string* out) {
  std::string value;
  if (!String(key, &value)) return false;
  const bool valid = std::all_of(value.begin(), value.end(), [kind](char c) { return IsNameChar(kind, c); });
  if (!valid || value.size() > max_bytes) {
    Fail(key,
         "must be 1 to " + std::to_string(max_bytes) + " " + std::string(NameRule(kind)) + ", not " + Quoted(value));
    return false;
  }
  *out = std::move(value);
  return true;
}

bool TableReader::OneOf(std::string_view key, std::span<const std::string_view> choices, size_t* out) {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  const auto* value = node->as_string();
  const auto found = value == nullptr ? choices.end() : std::find(choices.begin(), choices.end(), value->get());
  if (found == choices.end()) {
    std::string allowed;
    for (const std::string_view choice : choices) allowed += (allowed.empty() ? "" : ", ") + Quoted(choice);
    std::string message = "must be one of " + allowed + ", not " + DescribeNode(*node);
    const std::string_view nearest = value == nullptr ? "" : Nearest(value->get(), choices);
    if (!nearest.empty()) message += "; did you mean " + Quoted(nearest) + "?";
    Fail(key, message);
    return false;
  }
  *out = static_cast<size_t>(found - choices.begin());
  return true;
}

const toml::array* TableReader::Array(std::string_view key) {
  const toml::node* node = Find(key);
  if (node == nullptr) return nullptr;
  if (!node->is_array()) {
    Fail(key, "must be an array, not " + DescribeNode(*node));
    return nullptr;
  }
  return node->as_array();
}

bool TableReader::Ascending(std::string_view key, int64_t low, int64_t high, std::vector<int64_t>* out) {
  const toml::array* array = Array(key);
  if (array == nullptr) return false;
  const std::string rule = Expected("an array of ascending integers", low, high);
  if (array->empty()) Fail(key, rule + ", not empty");
  std::vector<int64_t> values;
  for (const toml::node& element : *array) {
    const auto* value = element.as_integer();
    if (value == nullptr || value->get() < low || value->get() > high) {
      FailAt(element, key, rule + "; one element is " + DescribeNode(element));
    } else if (!values.empty() && value->get() <= values.back()) {
      FailAt(element, key, rule + "; " + DescribeNode(element) + " follows " + std::to_string(values.back()));
    }
    if (failed()) return false;
    values.push_back(value->get());
  }
  if (failed()) return false;
  *out = std::move(values);
  return true;
}

bool TableReader::Strings(std::string_view key, std::vector<std::string>* out) {
  if (has(key) && table_->get(key)->is_string()) {
    std::string value;
    if (!String(key, &value)) return false;
    *out = {std::move(value)};
    return true;
  }
  const toml::array* array = Array(key);
  if (array == nullptr) return false;
  std::vector<std::string> values;
  for (const toml::node& element : *array) {
    const auto* value = element.as_string();
    if (value == nullptr) {
      FailAt(element, key, "must be an array of strings; one element is " + DescribeNode(element));
      return false;
    }
    values.push_back(value->get());
  }
  *out = std::move(values);
  return true;
}

bool TableReader::Devices(std::string_view key, int64_t high, std::vector<std::string>* out) {
  const toml::node* node = Find(key);
  if (node == nullptr) return false;
  std::vector<std::string> devices;
  const auto add = [&](const toml::node& element) {
    const auto* index = element.as_integer();
    const auto* name = element.as_string();
    const auto in_name = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-'; };
    if (index != nullptr && index->get() >= 0 && index->get() <= high) {
      devices.push_back(std::to_string(index->get()));
    } else if (name != nullptr && !name->get().empty() && name->get().size() <= kMaxDeviceNameBytes &&
               std::all_of(name->get().begin(), name->get().end(), in_name)) {
      devices.push_back(name->get());
    } else {
      FailAt(element, key,
             "must be an index from 0 to " + std::to_string(high) +
                 ", a UUID as nvidia-smi -L prints it, or an array " + "of them, not " + DescribeNode(element));
    }
  };
  if (const toml::array* array = node->as_array()) {
    for (const toml::node& element : *array) add(element);
    if (array->empty()) Fail(key, "must not be empty");
  } else {
    add(*node);
  }
  if (failed()) return false;
  *out = std::move(devices);
  return true;
}

TableReader TableReader::Table(std::string_view key) {
  const toml::node* node = Find(key);
  if (node != nullptr && !node->is_table()) Fail(key, "must be a table, not " + DescribeNode(*node));
  return {node == nullptr ? nullptr : node->as_table(), KeyPath(key), source_};
}

std::vector<TableReader> TableReader::Tables(std::string_view key, size_t max) {
  const toml::array* array = Array(key);
  std::vector<TableReader> readers;
  if (array == nullptr) return readers;
  if (array->size() > max) {
    FailAt((*array)[max], key,
           "at most " + std::to_string(max) + " are allowed, there are " + std::to_string(array->size()));
    return readers;
  }
  for (const toml::node& element : *array) {
    if (!element.is_table()) {
      FailAt(element, key, "must be an array of tables; one element is " + DescribeNode(element));
      return {};
    }
    readers.emplace_back(element.as_table(), KeyPath(key) + "[" + std::to_string(readers.size()) + "]", source_);
  }
  return readers;
}

void TableReader::Require(std::string_view key, std::string_view hint) {
  required_.push_back({std::string(key), std::string(hint)});
}

Status TableReader::Finish() {
  if (failed() || table_ == nullptr) return error_;
  const std::vector<std::string_view> known(known_.begin(), known_.end());
  for (const auto& [key, node] : *table_) {
    const std::string_view name = key.str();
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    std::string message = "unknown key";
    const std::string_view nearest = Nearest(name, known);
    if (!nearest.empty()) {
      message += "; did you mean " + Quoted(nearest) + "?";
    } else {
      message += "; allowed here:";
      for (size_t i = 0; i < known.size(); ++i) message += (i == 0 ? " " : ", ") + std::string(known[i]);
    }
    const bool plain = name.size() <= kMaxQuotedBytes &&
                       std::all_of(name.begin(), name.end(), [](char c) { return IsNameChar(NameKind::kTensor, c); });
    const std::string shown = plain ? std::string(name) : Quoted(name);
    error_ =
        Status(StatusCode::kInvalidArgument, Location(key.source(), source_) + ": " + KeyPath(shown) + ": " + message);
    return error_;
  }
  for (const Required& required : required_) {
    if (!table_->contains(required.key)) {
      Fail(required.key, "is missing; " + required.hint);
      return error_;
    }
  }
  return error_;
}

}  // namespace abacus
