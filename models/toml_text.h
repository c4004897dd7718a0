// A TOML document from a file or a text, and how parts of it read in messages. TableReader (toml_reader.h) reads it.
//
// Thread rule: free functions. Errors: kInvalidArgument with FILE:LINE; kNotFound when a file cannot be opened.
#ifndef ABACUS_MODELS_TOML_TEXT_H_
#define ABACUS_MODELS_TOML_TEXT_H_

// toml++ without exceptions, compiled once, in toml_text.cc. Every user includes it through this header.
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_MAX_NESTED_VALUES 16
#include <toml++/toml.h>

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace abacus {

// Largest accepted file, in bytes.
inline constexpr size_t kMaxTomlBytes = 256 * 1024;

// Reads a regular file of at most kMaxTomlBytes.
Result<std::string> ReadTomlFile(const std::filesystem::path& path);

// Parses a whole document; `source` stands for FILE in error messages.
Result<toml::table> ParseToml(std::string_view text, std::string_view source);

// FILE:LINE of a node, or the setting of the command line that it comes from; `fallback` stands for FILE.
std::string Location(const toml::source_region& region, std::string_view fallback);

// How a node reads in an error message: a number, a quoted and shortened string, or the name of its type.
std::string DescribeNode(const toml::node& node);

// Longer text is shortened in messages.
inline constexpr size_t kMaxQuotedBytes = 60;

// At most 12 digits of it.
std::string FormatNumber(double value);

// `text` in double quotes, shortened, with control characters replaced: safe for a log line.
std::string Quoted(std::string_view text);

// The choice nearest to a misspelt word, "" when none is near.
std::string_view Nearest(std::string_view word, std::span<const std::string_view> choices);

}  // namespace abacus

#endif  // ABACUS_MODELS_TOML_TEXT_H_
