// Logging: spdlog to standard error, one line per event, never per query.
#ifndef ABACUS_SHM_LOG_H_
#define ABACUS_SHM_LOG_H_

#include <spdlog/spdlog.h>

#include <string>

namespace abacus {

// Sets the process's logger: "time level [who] message". `level` is one of trace, debug, info, warn, error.
void InitLog(const std::string& who, const std::string& level);

}  // namespace abacus

#endif  // ABACUS_SHM_LOG_H_
