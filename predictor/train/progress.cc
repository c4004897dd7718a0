#include "predictor/train/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace abacus {
namespace {

constexpr uint64_t kTerminalPeriodNs = 200'000'000;
constexpr uint64_t kPlainPeriodNs = 5'000'000'000;

}  // namespace

StageProgress::StageProgress(std::FILE* file, double work, uint32_t stages)
    : file_(file), terminal_(isatty(fileno(file)) != 0), start_ns_(MonotonicNs()), work_(work), stages_(stages) {
  printed_ns_ = start_ns_;
}

void StageProgress::Update(const std::string& stage, double done, std::string text) {
  const std::scoped_lock lock(mutex_);
  running_[stage] = {done, std::move(text)};
  const uint64_t now_ns = MonotonicNs();
  if (now_ns - printed_ns_ < (terminal_ ? kTerminalPeriodNs : kPlainPeriodNs)) return;
  printed_ns_ = now_ns;
  Clear();
  std::string line = Line(now_ns);
  if (terminal_) {
    winsize window = {};  // a line that wraps could not be taken back
    if (ioctl(fileno(file_), TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
      line.resize(std::min<size_t>(line.size(), window.ws_col - 1));
  } else {
    line += '\n';
  }
  std::fputs(line.c_str(), file_);
  line_open_ = terminal_;
  std::fflush(file_);
}

void StageProgress::Finish(const std::string& stage, double done, const std::string& what) {
  const std::scoped_lock lock(mutex_);
  running_.erase(stage);
  finished_ += done;
  ++stages_done_;
  Clear();
  fmt::print(file_, "{}\n", what);
  std::fflush(file_);
}

void StageProgress::Skip(double work) {
  const std::scoped_lock lock(mutex_);
  work_ -= work;
  ++stages_done_;
}

void StageProgress::End() {
  const std::scoped_lock lock(mutex_);
  Clear();
  std::fflush(file_);
}

std::string StageProgress::Line(uint64_t now_ns) const {
  double done = finished_;
  std::string text;
  for (const auto& [stage, running] : running_) {
    done += running.done;
    text += fmt::format("; {}: {}", stage, running.text);
  }
  const double elapsed_s = static_cast<double>(now_ns - start_ns_) * 1e-9;
  const std::string left = done > 0 ? fmt::format(", {:.0f} s left", elapsed_s * (work_ - done) / done) : "";
  return fmt::format("{} of {} done{}{}", stages_done_, stages_, left, text);
}

void StageProgress::Clear() {
  if (line_open_) std::fputs("\r\x1b[K", file_);
  line_open_ = false;
}

}  // namespace abacus
