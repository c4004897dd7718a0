#include "bench/policy_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/clock.h"
#include "base/duration.h"
#include "base/text.h"

namespace abacus::bench {

Result<PolicyChoice> ParsePolicyChoice(std::string_view text) {
  const auto fail = [&](const std::string& what) {
    return Error(StatusCode::kInvalidArgument,
                 fmt::format("policy '{}': {}; a policy is NAME[:off][:DELAY] with NAME one of {}", text, what,
                             fmt::join(kPolicyNames, ", ")));
  };
  PolicyChoice choice;
  choice.text = text;
  std::string_view rest = text;
  choice.name = TakePart(&rest, ':');
  if (std::find(kPolicyNames.begin(), kPolicyNames.end(), choice.name) == kPolicyNames.end()) {
    return fail("there is no such policy");
  }
  while (!rest.empty()) {
    const std::string_view part = TakePart(&rest, ':');
    if (part == "off") {
      choice.batching = Batching::kOff;
      continue;
    }
    const auto delay_ns = ParseDuration(part);
    if (!delay_ns) return fail("'" + std::string(part) + "' is neither \"off\" nor a delay such as 1ms");
    if (!choice.name.starts_with("delay")) return fail("it has no delay");
    if (*delay_ns > kNsPerSecond) return fail("a delay of more than 1s");
    choice.max_queue_delay_us = static_cast<uint32_t>(*delay_ns / kNsPerUs);
  }
  return choice;
}

Result<std::vector<PolicyChoice>> ParsePolicyChoices(const std::vector<std::string>& texts) {
  std::vector<std::string> named;
  for (const std::string& text : texts) {
    if (text != "all") {
      named.push_back(text);
      continue;
    }
    for (const std::string_view name : kPolicyNames) {
      named.emplace_back(name);
      if (name == "abacus") named.emplace_back("abacus:off");
      if (!name.starts_with("delay")) continue;
      for (const char* delay : {":1ms", ":2ms"}) named.push_back(std::string(name) + delay);
    }
  }
  std::vector<PolicyChoice> choices;
  for (const std::string& text : named) {
    auto choice = ParsePolicyChoice(text);
    if (!choice) return Error(choice.error());
    choices.push_back(std::move(*choice));
  }
  return choices;
}

}  // namespace abacus::bench
