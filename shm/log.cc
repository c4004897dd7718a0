#include "shm/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace abacus {

void InitLog(const std::string& who, const std::string& level) {
  auto logger = spdlog::stderr_logger_mt(who);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %l [%n] %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace abacus
