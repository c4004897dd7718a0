// The configuration in force as JSON: every section and key of the file, with defaults and overrides applied, spelled
// and in the units of the file. What mps.sh and other programs go by, so that no default is written down twice.
//
// Special cases: paths are absolute; `gpu` is an array of text; `predictor` is "none" where there is none; `margin` is
// null where the predictor's own error decides; `spin_us` is the time in force, never -1.
// Thread rule: a pure function.
#ifndef ABACUS_CONTROLLER_CONFIG_CONFIG_JSON_H_
#define ABACUS_CONTROLLER_CONFIG_CONFIG_JSON_H_

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "controller/config/config.h"

namespace abacus {

nlohmann::ordered_json ToJson(const Config& config);
// The same as text, with the run directory.
std::string ToJsonText(const Config& config, const std::filesystem::path& run_directory);

}  // namespace abacus

#endif  // ABACUS_CONTROLLER_CONFIG_CONFIG_JSON_H_
