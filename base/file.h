// Files that are read and replaced as a whole.
// Thread rule: none. Errors name the file and the system's reason: NOT_FOUND when it cannot be opened, UNAVAILABLE when
// it cannot be read or written, INVALID_ARGUMENT when it is larger than `max_bytes`.
#ifndef ABACUS_BASE_FILE_H_
#define ABACUS_BASE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/status.h"

namespace abacus {

Result<std::string> ReadWholeFile(const std::filesystem::path& path, size_t max_bytes = SIZE_MAX);

// By way of PATH.new: never half a file under the final name, whoever looks at any moment.
Status WriteWholeFile(const std::filesystem::path& path, std::string_view content);

}  // namespace abacus

#endif  // ABACUS_BASE_FILE_H_
