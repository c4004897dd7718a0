// SHA-256 digests, as 64 lower-case hex digits: what tells whether two files are the same.
// Thread rule: free functions. Errors: UNAVAILABLE with the system's reason when a file cannot be read.
#ifndef ABACUS_BASE_DIGEST_H_
#define ABACUS_BASE_DIGEST_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace abacus {

inline constexpr size_t kDigestHexBytes = 64;

std::string Sha256Hex(std::span<const std::byte> bytes);
std::string Sha256Hex(std::string_view text);

// Of the whole file, wherever its descriptor stands; leaves that position alone.
Result<std::string> FileSha256(int fd);

}  // namespace abacus

#endif  // ABACUS_BASE_DIGEST_H_
