#include "base/digest.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace abacus {
namespace {

TEST(Digest, IsSha256InHex) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Digest, OfAFileIsThatOfAllItsBytesWhereverItsDescriptorStands) {
  const auto path = std::filesystem::path(testing::TempDir()) / ("digest-" + std::to_string(getpid()));
  std::string content((5 << 20) + 3, '\0');  // more than one piece
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i % 251);
  std::ofstream(path, std::ios::binary) << content;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(lseek(fd, 17, SEEK_SET), 17);
  EXPECT_EQ(FileSha256(fd).value(), Sha256Hex(content));
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 17);
  close(fd);
  std::filesystem::remove(path);
}

TEST(Digest, SaysWhyAFileCannotBeRead) {
  const int folder = open("/", O_RDONLY | O_CLOEXEC);
  const auto digest = FileSha256(folder);
  ASSERT_FALSE(digest);
  EXPECT_EQ(digest.error().code(), StatusCode::kUnavailable);
  EXPECT_NE(digest.error().message().find("Is a directory"), std::string::npos);
  close(folder);
}

}  // namespace
}  // namespace abacus
