// Settings of the command line: "section.key=value", "service.NAME.key=value", or "service.key=value" for every
// service.
//
// An override is moved into the parsed document, where the readers of config.cc meet it like a key of the file, with
// the command line as its position in errors; a duration replaces both of its keys (qos and qos_ms). Thread rule: pure
// functions.
#ifndef ABACUS_CONTROLLER_CONFIG_OVERRIDES_H_
#define ABACUS_CONTROLLER_CONFIG_OVERRIDES_H_

#include <string>
#include <string_view>

#include "base/status.h"
#include "models/toml_reader.h"

namespace abacus {

inline constexpr std::string_view kNoPredictor = "none";  // [scheduler] predictor: the sum of solo times

// Applies one setting. `value` is in TOML syntax, a bare word is taken as a string, and a path starts at the working
// directory. INVALID_ARGUMENT names the setting and what is wrong with it.
Status ApplyOverride(const std::string& setting, toml::table* document);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_CONFIG_OVERRIDES_H_
