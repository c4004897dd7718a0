// Logging: one line per event to standard error, never per query but at level "trace".
//
// spdlog does the work, in log.cc alone: its templates cost each unit that logs some seconds of compile time.
// Thread rule: any thread, after InitLog.
#ifndef ABACUS_BASE_LOG_H_
#define ABACUS_BASE_LOG_H_

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <utility>

namespace abacus {

enum class LogLevel : uint8_t { kTrace = 0, kDebug, kInfo, kWarn, kError };

// Sets the process's logger: "time level [who] message". `level` is one of trace, debug, info, warn, error.
void InitLog(const std::string& who, const std::string& level);

bool LogEnabled(LogLevel level);
void WriteLog(LogLevel level, fmt::string_view format, fmt::format_args arguments);

// Formats only what is written.
template <class... Args>
void Log(LogLevel level, fmt::format_string<Args...> format, Args&&... arguments) {
  if (LogEnabled(level)) WriteLog(level, format, fmt::make_format_args(arguments...));
}
template <class... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... arguments) {
  Log(LogLevel::kInfo, format, std::forward<Args>(arguments)...);
}
template <class... Args>
void LogWarn(fmt::format_string<Args...> format, Args&&... arguments) {
  Log(LogLevel::kWarn, format, std::forward<Args>(arguments)...);
}
template <class... Args>
void LogError(fmt::format_string<Args...> format, Args&&... arguments) {
  Log(LogLevel::kError, format, std::forward<Args>(arguments)...);
}

}  // namespace abacus

#endif  // ABACUS_BASE_LOG_H_
