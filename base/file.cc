#include "base/file.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

namespace abacus {
namespace {

// C streams: unlike an fstream they say when reading fails half-way, and why.
using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

Status CannotWrite(const std::filesystem::path& path, const std::string& why) {
  std::error_code ignored;
  std::filesystem::remove(path.string() + ".new", ignored);
  return {StatusCode::kUnavailable, path.string() + ": cannot be written: " + why};
}

}  // namespace

Result<std::string> ReadWholeFile(const std::filesystem::path& path, size_t max_bytes) {
  const auto failed = [&path](StatusCode code) {
    return Error(code, path.string() + ": cannot be read (" + std::strerror(errno) + ")");
  };
  const File file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) return failed(StatusCode::kNotFound);
  std::string content;
  std::array<char, 1 << 16> piece;
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), file.get())) {
    if (count > max_bytes - content.size()) {
      return Error(StatusCode::kInvalidArgument,
                   path.string() + ": is larger than " + std::to_string(max_bytes >> 20) + " MiB");
    }
    content.append(piece.data(), count);
  }
  if (std::ferror(file.get()) != 0) return failed(StatusCode::kUnavailable);
  return content;
}

Status WriteWholeFile(const std::filesystem::path& path, std::string_view content) {
  const std::filesystem::path temporary = path.string() + ".new";
  std::FILE* const file = std::fopen(temporary.c_str(), "wb");
  if (file == nullptr) return CannotWrite(path, std::strerror(errno));
  const bool written = std::fwrite(content.data(), 1, content.size(), file) == content.size();
  const int write_errno = errno;
  if (const bool closed = std::fclose(file) == 0; !written || !closed) {
    return CannotWrite(path, std::strerror(written ? errno : write_errno));
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  return error ? CannotWrite(path, error.message()) : Status::Ok();
}

}  // namespace abacus
