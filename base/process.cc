#include "base/process.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

namespace abacus {

std::optional<uint64_t> ProcessStartTicks(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // The command name (field 2) is in parentheses and may contain anything: fields are counted after the last one.
  const size_t close = line.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  std::istringstream rest(line.substr(close + 1));
  std::string field;
  rest >> field;  // field 3: state
  if (field == "Z" || field == "X") return std::nullopt;
  uint64_t ticks = 0;
  for (int i = 4; i <= 21; ++i) rest >> field;
  if (!(rest >> ticks)) return std::nullopt;
  return ticks;
}

int OpenPidFd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

}  // namespace abacus
