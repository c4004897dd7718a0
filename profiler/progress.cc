#include "profiler/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr uint64_t kTerminalNs = 200 * kNsPerMs;
constexpr uint64_t kLogNs = 10 * kNsPerSecond;
constexpr size_t kBarWidth = 24;

std::string Duration(double s) {
  const auto seconds = static_cast<int64_t>(s);
  return seconds < 100 ? fmt::format("{} s", seconds) : fmt::format("{}:{:02} min", seconds / 60, seconds % 60);
}

}  // namespace

Progress::Progress() : terminal_(isatty(STDERR_FILENO) != 0) {}
Progress::~Progress() { End(); }

void Progress::Show(const std::string& what, double share, const std::string& detail) {
  const uint64_t now_ns = MonotonicNs();
  share = std::clamp(share, 0.0, 1.0);
  if (what != what_) {
    what_ = what;
    began_ns_ = now_ns;
    began_share_ = share;
    next_ns_ = 0;
  }
  if (now_ns < next_ns_ && share < 1) return;
  next_ns_ = now_ns + (terminal_ ? kTerminalNs : kLogNs);
  std::string left;
  if (share > began_share_ && share < 1) {
    const double elapsed_s = static_cast<double>(now_ns - began_ns_) * 1e-9;
    left = ", " + Duration(elapsed_s * (1 - share) / (share - began_share_)) + " left";
  }
  const auto filled = static_cast<size_t>(share * kBarWidth);
  const std::string line = fmt::format("{} [{}{}] {:5.1f} %  {}{}", what, std::string(filled, '='),
                                       std::string(kBarWidth - filled, ' '), share * 100, detail, left);
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = terminal_;
}

void Progress::End() {
  if (drawn_) fmt::print(stderr, "\n");
  drawn_ = false;
  what_.clear();
}

}  // namespace abacus
