#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace abacus {
namespace {

spdlog::level::level_enum Of(LogLevel level) { return static_cast<spdlog::level::level_enum>(level); }

static_assert(static_cast<int>(LogLevel::kTrace) == SPDLOG_LEVEL_TRACE);
static_assert(static_cast<int>(LogLevel::kError) == SPDLOG_LEVEL_ERROR);

}  // namespace

void InitLog(const std::string& who, const std::string& level) {
  auto logger = spdlog::stderr_logger_mt(who);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %l [%n] %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

bool LogEnabled(LogLevel level) { return spdlog::default_logger_raw()->should_log(Of(level)); }

void WriteLog(LogLevel level, fmt::string_view format, fmt::format_args arguments) {
  const std::string text = fmt::vformat(format, arguments);
  spdlog::default_logger_raw()->log(Of(level), spdlog::string_view_t(text));
}

}  // namespace abacus
