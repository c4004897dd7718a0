#include "base/digest.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace abacus {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    Require(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(std::span<const std::byte> bytes) {
    Require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  }
  std::string Hex() {
    std::array<unsigned char, kDigestHexBytes / 2> digest{};
    Require(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    std::string hex;
    for (const unsigned char byte : digest) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15];
    }
    return hex;
  }

 private:
  // OpenSSL fails here only without memory, or in a build without SHA-256.
  static void Require(bool done) {
    if (!done) std::abort();
  }

  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string Sha256Hex(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.Add(bytes);
  return sha.Hex();
}

std::string Sha256Hex(std::string_view text) { return Sha256Hex(std::as_bytes(std::span(text))); }

Result<std::string> FileSha256(int fd) {
  Sha256 sha;
  std::vector<std::byte> piece(kPieceBytes);
  for (off_t at = 0;;) {
    const ssize_t got = pread(fd, piece.data(), piece.size(), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error(StatusCode::kUnavailable, std::string("cannot be read (") + std::strerror(errno) + ")");
    if (got == 0) return sha.Hex();
    sha.Add({piece.data(), static_cast<size_t>(got)});
    at += got;
  }
}

}  // namespace abacus
