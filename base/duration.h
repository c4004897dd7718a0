// Durations as people write them: a number and its unit, such as "50ms", "2.5s", "800us" or "1min".
//
// One form for configurations, command lines and messages: decimal digits, with a fraction where wanted, and one of ns,
// us, ms, s, min and h; blanks may stand between. No sign, no exponent, and no number without a unit: a reader of
// "timeout = 5" cannot know what it means. client/python/abacus_client/durations.py has the same rules.
//
// Units: nanoseconds. Thread rule: pure functions.
#ifndef ABACUS_BASE_DURATION_H_
#define ABACUS_BASE_DURATION_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace abacus {

inline constexpr std::string_view kDurationUnits = "ns, us, ms, s, min, h";

// Nanoseconds, rounded to the nearest. INVALID_ARGUMENT says what a duration looks like; anything from 292 years on
// (2^63 ns) is too long.
Result<uint64_t> ParseDuration(std::string_view text);

// The shortest text that ParseDuration reads as the same value: "50ms", "1500us" as "1.5ms", 0 as "0s".
std::string FormatDuration(uint64_t ns);

// A setting that may also be a bare number, whose unit its name says, such as `--qos-us 500`: `unit` is one of
// kDurationUnits. Whole and broken numbers.
Result<uint64_t> ParseDurationOr(std::string_view text, std::string_view unit);

// Of one unit; 0 for none of kDurationUnits.
uint64_t NsPerUnit(std::string_view unit);

}  // namespace abacus

#endif  // ABACUS_BASE_DURATION_H_
