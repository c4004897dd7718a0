#include "base/duration.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

namespace abacus {
namespace {

struct Unit {
  std::string_view name;
  uint64_t ns;
};
constexpr std::array<Unit, 6> kUnits = {{{"ns", 1},
                                         {"us", 1'000},
                                         {"ms", 1'000'000},
                                         {"s", 1'000'000'000},
                                         {"min", 60'000'000'000},
                                         {"h", 3'600'000'000'000}}};

constexpr size_t kMaxShownBytes = 40;
constexpr uint64_t kTooLongNs = uint64_t{1} << 63;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

tl::unexpected<Status> Fail(std::string_view text, std::string_view message) {
  std::string shown(text.substr(0, kMaxShownBytes));
  std::replace_if(
      shown.begin(), shown.end(), [](unsigned char c) { return c < ' ' || c > '~'; }, '?');
  return Error(StatusCode::kInvalidArgument, "\"" + shown + "\" " + std::string(message));
}

// Length of the number at the beginning of `text`: digits, or digits, a point and digits.
size_t NumberBytes(std::string_view text) {
  const auto digits_from = [text](size_t at) {
    while (at < text.size() && IsDigit(text[at])) ++at;
    return at;
  };
  const size_t whole = digits_from(0);
  if (whole == 0 || whole >= text.size() || text[whole] != '.') return whole;
  const size_t end = digits_from(whole + 1);
  return end > whole + 1 ? end : whole;
}

// digits * unit, exact: a double would lose nanoseconds beyond 104 days.
Result<uint64_t> Multiply(std::string_view text, std::string_view number, uint64_t unit_ns) {
  const size_t point = std::min(number.find('.'), number.size());
  uint64_t whole = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + point, whole);
  if (error != std::errc() || whole > (kTooLongNs - 1) / unit_ns || text.size() > kMaxShownBytes) {
    return Fail(text, "is longer than 292 years");
  }
  double fraction = 0;
  if (point < number.size()) std::from_chars(number.data() + point, number.data() + number.size(), fraction);
  const auto rest_ns = static_cast<uint64_t>(std::llround(fraction * static_cast<double>(unit_ns)));
  const uint64_t ns = whole * unit_ns + rest_ns;
  if (ns >= kTooLongNs) return Fail(text, "is longer than 292 years");
  return ns;
}

}  // namespace

uint64_t NsPerUnit(std::string_view unit) {
  for (const Unit& known : kUnits) {
    if (known.name == unit) return known.ns;
  }
  return 0;
}

Result<uint64_t> ParseDuration(std::string_view text) {
  const size_t number_bytes = NumberBytes(text);
  size_t unit_at = number_bytes;
  while (unit_at < text.size() && text[unit_at] == ' ') ++unit_at;
  const uint64_t unit_ns = NsPerUnit(text.substr(unit_at));
  if (number_bytes == 0 || unit_ns == 0) {
    return Fail(text,
                "is no duration; write a number and one of " + std::string(kDurationUnits) + ", such as \"50ms\"");
  }
  return Multiply(text, text.substr(0, number_bytes), unit_ns);
}

Result<uint64_t> ParseDurationOr(std::string_view text, std::string_view unit) {
  if (text.empty() || NumberBytes(text) != text.size()) return ParseDuration(text);
  return Multiply(text, text, NsPerUnit(unit));
}

std::string FormatDuration(uint64_t ns) {
  if (ns == 0) return "0s";
  const Unit* unit = &kUnits.front();
  for (const Unit& larger : kUnits) {
    // Minutes and hours only where they are whole: "90s" reads better than "1.5min".
    if (ns >= larger.ns && (larger.ns <= 1'000'000'000 || ns % larger.ns == 0)) unit = &larger;
  }
  std::string text = std::to_string(ns / unit->ns);
  if (uint64_t rest = ns % unit->ns; rest > 0) {
    text += '.';
    for (uint64_t place = unit->ns / 10; rest > 0; place /= 10) {
      text += static_cast<char>('0' + rest / place);
      rest %= place;
    }
  }
  return text + std::string(unit->name);
}

}  // namespace abacus
