// Text: what parsers of small languages share. Thread rule: pure functions.
#ifndef ABACUS_BASE_TEXT_H_
#define ABACUS_BASE_TEXT_H_

#include <algorithm>
#include <string_view>

namespace abacus {

// Takes what stands before the first `separator`, or all, from the front of `rest`; the separator goes, too.
inline std::string_view TakePart(std::string_view* rest, char separator) {
  const size_t end = std::min(rest->find(separator), rest->size());
  const std::string_view part = rest->substr(0, end);
  rest->remove_prefix(std::min(end + 1, rest->size()));
  return part;
}

}  // namespace abacus

#endif  // ABACUS_BASE_TEXT_H_
