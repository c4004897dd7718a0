#define TOML_IMPLEMENTATION
#include "models/toml_text.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace abacus {

namespace {

constexpr size_t kMaxDotsPerLine = 64;  // outside strings and comments

struct Objection {
  size_t line = 0;
  std::string message;
};

// Keeps from toml++ 3.3 what it cannot take: dotted keys without end (it would overflow the stack when the document is
// destroyed) and characters beyond ASCII where it looks for blanks (undefined behaviour). So those are blanked in
// comments and refused elsewhere; strings write them as \u escapes. Multi-line strings are refused, too: without them,
// comments and strings can be told apart line by line.
std::optional<Objection> MakeSafe(std::string* text) {
  enum class State : uint8_t { kPlain, kComment, kBasicString, kLiteralString };
  State state = State::kPlain;
  size_t line = 1;
  size_t dots = 0;
  for (size_t i = 0; i < text->size(); ++i) {
    char& c = (*text)[i];
    if (static_cast<unsigned char>(c) > 0x7f) {
      if (state != State::kComment) {
        return Objection{line, "characters beyond ASCII are accepted only in comments; in a string write \\uXXXX"};
      }
      c = '?';
    } else if (c == '\n') {
      state = State::kPlain;
      ++line;
      dots = 0;
    } else if (state == State::kBasicString) {
      if (c == '"') state = State::kPlain;
      if (text->compare(i, 2, "\\\"") == 0 || text->compare(i, 2, "\\\\") == 0) ++i;
    } else if (state == State::kLiteralString) {
      if (c == '\'') state = State::kPlain;
    } else if (state == State::kPlain) {
      if (text->compare(i, 3, "\"\"\"") == 0 || text->compare(i, 3, "'''") == 0) {
        return Objection{line, "multi-line strings are not accepted"};
      }
      if (c == '#') state = State::kComment;
      if (c == '"') state = State::kBasicString;
      if (c == '\'') state = State::kLiteralString;
      if (c == '.' && ++dots > kMaxDotsPerLine) {
        return Objection{line, "more than " + std::to_string(kMaxDotsPerLine) + " dots; no key nests that deep"};
      }
    }
  }
  return std::nullopt;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

Result<std::string> ReadTomlFile(const std::filesystem::path& path) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  if (kind == std::filesystem::file_type::not_found) {
    return Error(StatusCode::kNotFound, path.string() + ": no such file");
  }
  if (kind != std::filesystem::file_type::regular) {
    return Error(StatusCode::kInvalidArgument, path.string() + ": is not a regular file");
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return Error(StatusCode::kNotFound, path.string() + ": cannot be opened for reading");
  std::string text(kMaxTomlBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) return Error(StatusCode::kUnavailable, path.string() + ": reading failed");
  text.resize(static_cast<size_t>(stream.gcount()));
  return text;
}

Result<toml::table> ParseToml(std::string_view text, std::string_view source) {
  const auto fail = [&](size_t line, std::string_view message) {
    return Error(StatusCode::kInvalidArgument,
                 std::string(source) + ":" + std::to_string(line) + ": " + std::string(message));
  };
  if (text.size() > kMaxTomlBytes) {
    return fail(1, "the file is larger than " + std::to_string(kMaxTomlBytes / 1024) + " KiB");
  }
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  std::string safe(text);
  if (const std::optional<Objection> objection = MakeSafe(&safe)) {
    return fail(objection->line, objection->message);
  }
  toml::parse_result parsed = toml::parse(std::string_view(safe), source);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return Error(StatusCode::kInvalidArgument,
                 Location(error.source(), source) + ": not valid TOML: " + std::string(error.description()));
  }
  return std::move(parsed).table();
}

std::string FormatNumber(double value) {
  std::string text(32, '\0');
  const int length = std::snprintf(text.data(), text.size(), "%.12g", value);
  text.resize(static_cast<size_t>(length));
  return text;
}

std::string Location(const toml::source_region& region, std::string_view fallback) {
  std::string where(region.path ? std::string_view(*region.path) : fallback);
  // Settings of the command line carry their own text as the source; a line number would mean nothing there.
  if (where.starts_with("--")) return where;
  return where + ":" + std::to_string(region.begin.line > 0 ? region.begin.line : 1);
}

std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text.substr(0, kMaxQuotedBytes)) {
    quoted += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? '?' : c;
  }
  return quoted + (text.size() > kMaxQuotedBytes ? "...\"" : "\"");
}

std::string DescribeNode(const toml::node& node) {
  if (const auto* value = node.as_integer()) return std::to_string(value->get());
  if (const auto* value = node.as_floating_point()) return "the float " + FormatNumber(value->get());
  if (const auto* value = node.as_boolean()) return value->get() ? "true" : "false";
  if (const auto* value = node.as_string()) return "the string " + Quoted(value->get());
  if (node.is_table()) return "a table";
  if (node.is_array_of_tables()) return "an array of tables";
  if (node.is_array()) return "an array";
  return "a date or time";
}

std::string_view Nearest(std::string_view word, std::span<const std::string_view> choices) {
  if (word.size() > kMaxQuotedBytes) return "";
  std::string_view nearest;
  size_t best = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string_view choice : choices) {
    const size_t distance = EditDistance(word, choice);
    if (distance < best && distance < word.size()) {
      best = distance;
      nearest = choice;
    }
  }
  return nearest;
}

}  // namespace abacus
