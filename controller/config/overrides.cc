#include "controller/config/overrides.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/duration.h"
#include "controller/config/config.h"
#include "models/toml_reader.h"

namespace abacus {
namespace {

// A setting of the command line, "section.key=value" or "service.NAME.key=value".
struct Override {
  std::string section;
  std::string service;  // with section "service" only; empty: every service
  std::string key;
  toml::table value;  // the parsed value under "value"
};

Status OverrideError(std::string_view setting, std::string_view message) {
  return {StatusCode::kInvalidArgument, "--set " + std::string(setting.substr(0, 200)) + ": " + std::string(message)};
}

bool IsBareWord(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c > ' ' && c != 0x7f && std::string_view("\"'[]{}#,=").find(static_cast<char>(c)) == std::string_view::npos;
  });
}

// Whoever types a path means it from where they are, not from the file's folder.
void AnchorPath(std::string_view section, std::string_view key, toml::value<std::string>* value) {
  const bool is_path = (section == "scheduler" && key == "predictor") || (section == "service" && key == "model");
  if (!is_path || value == nullptr || value->get().empty() || value->get() == kNoPredictor) return;
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(value->get(), error);
  if (!error) value->get() = absolute.string();
}

Result<Override> ParseOverride(const std::string& setting) {
  constexpr std::string_view kForm =
      "must be section.key=value, service.NAME.key=value or service.key=value (every service), for example "
      "scheduler.policy=edf";
  const size_t equals = setting.find('=');
  if (equals == std::string::npos) return Error(OverrideError(setting, kForm));
  const std::string_view target = std::string_view(setting).substr(0, equals);
  const std::string_view value = std::string_view(setting).substr(equals + 1);
  const size_t first = target.find('.');
  const size_t last = target.rfind('.');
  if (first == std::string_view::npos || first == 0 || last + 1 == target.size()) {
    return Error(OverrideError(setting, kForm));
  }
  Override result;
  result.section = target.substr(0, first);
  result.key = target.substr(last + 1);
  if (result.section != "service" && first != last) return Error(OverrideError(setting, kForm));
  if (first != last) result.service = target.substr(first + 1, last - first - 1);

  // A newline would let the value bring keys of its own.
  if (value.find_first_of("\r\n") != std::string_view::npos) return Error(OverrideError(setting, kForm));
  const std::string source = "--set " + setting.substr(0, 200);
  Result<toml::table> parsed = ParseToml("value = " + std::string(value), source);
  if (!parsed && IsBareWord(value)) {
    parsed = ParseToml("value = \"\"", source);
    if (parsed) parsed->get_as<std::string>("value")->get() = value;
  }
  if (!parsed) return Error(OverrideError(setting, "the value is neither TOML nor a bare word"));
  AnchorPath(result.section, result.key, parsed->get_as<std::string>("value"));
  result.value = std::move(*parsed);
  return result;
}

// A duration has two keys, such as qos and qos_ms. The one that is set takes the place of the other.
void EraseOtherSpelling(const std::string& key, toml::table* section) {
  const size_t underscore = key.rfind('_');
  if (underscore != std::string::npos && NsPerUnit(std::string_view(key).substr(underscore + 1)) != 0) {
    section->erase(key.substr(0, underscore));
  }
  for (const std::string_view unit : {"us", "ms", "s"}) section->erase(key + "_" + std::string(unit));
}

// The tables that a setting is for.
Result<std::vector<toml::table*>> TablesOf(const std::string& setting, const Override& parsed, toml::table* document) {
  std::vector<toml::table*> tables;
  if (parsed.section == "service") {
    toml::array* services = document->get_as<toml::array>("service");
    for (size_t i = 0; services != nullptr && i < services->size(); ++i) {
      toml::table* candidate = (*services)[i].as_table();
      if (candidate == nullptr) continue;
      const auto* name = candidate->get_as<std::string>("name");
      const bool named = name != nullptr && name->get() == parsed.service;
      if (named || parsed.service.empty()) tables.push_back(candidate);
    }
    if (tables.empty() && !parsed.service.empty()) {
      return Error(OverrideError(setting, "there is no service " + Quoted(parsed.service)));
    }
    return tables;
  }
  if (!document->contains(parsed.section)) {
    document->insert(toml::key(parsed.section, parsed.value.get("value")->source()), toml::table());
  }
  tables.push_back(document->get_as<toml::table>(parsed.section));
  if (tables.back() == nullptr) return Error(OverrideError(setting, Quoted(parsed.section) + " is not a section"));
  return tables;
}

}  // namespace

Status ApplyOverride(const std::string& setting, toml::table* document) {
  Result<Override> parsed = ParseOverride(setting);
  if (!parsed) return parsed.error();
  const Result<std::vector<toml::table*>> tables = TablesOf(setting, *parsed, document);
  if (!tables) return tables.error();
  for (toml::table* table : *tables) {
    EraseOtherSpelling(parsed->key, table);
    Result<Override> again = ParseOverride(setting);  // a copied node would not know where it comes from
    if (!again) return again.error();
    toml::node* value = again->value.get("value");
    toml::key key(again->key, value->source());
    value->visit([&](auto& node) { table->insert_or_assign(std::move(key), std::move(node)); });
  }
  return Status::Ok();
}

}  // namespace abacus
