#include "client/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "client/commands.h"

namespace abacus {
namespace {

using ::testing::HasSubstr;

class NpyFile : public ::testing::Test {
 protected:
  NpyFile() : directory_(::testing::TempDir() + "npy_test_" + std::to_string(::getpid())) {
    std::filesystem::create_directories(directory_);
  }
  ~NpyFile() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return (directory_ / name).string(); }
  std::string Save(const std::string& name, const std::string& content) const {
    std::ofstream(Path(name), std::ios::binary) << content;
    return Path(name);
  }
  const std::filesystem::path directory_;
};

std::string Npy(const std::string& dict, const std::string& data, char version = 1) {
  std::string content = "\x93NUMPY";
  content += {version, 0, static_cast<char>(dict.size() & 0xff), static_cast<char>(dict.size() >> 8)};
  if (version > 1) content += std::string(2, '\0');
  return content + dict + data;
}
Result<Tensor> Parse(const std::string& content) { return ParseNpy(std::as_bytes(std::span(content)), "x.npy", "x"); }
std::string WhyNot(const std::string& content) {
  const auto tensor = Parse(content);
  return tensor ? "was read" : tensor.error().message();
}

TEST(Npy, ReadsWhatNumpyWrites) {
  const auto tensor = Parse(Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }      \n", "abcdefgh"));
  ASSERT_TRUE(tensor) << tensor.error().message();
  EXPECT_EQ(tensor->name, "x");
  EXPECT_EQ(tensor->dtype, DType::kFloat32);
  EXPECT_EQ(tensor->shape, (Shape{2, 1}));
  EXPECT_EQ(tensor->bytes.size(), 8u);
  EXPECT_TRUE(Parse(Npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }\n", "abc", 2)));
  EXPECT_TRUE(Parse(Npy("{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n", "abcdefgh", 3)));
  EXPECT_TRUE(Parse(Npy("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 5), }\n", "")));
}

TEST(Npy, RefusesWhatAQueryCannotCarry) {
  EXPECT_THAT(WhyNot(Npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "abcd")),
              HasSubstr("big-endian"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "abcd")), HasSubstr("objects"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", "abcd")), HasSubstr("Fortran"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "abcdefgh")), HasSubstr("'<c8'"));
  EXPECT_THAT(WhyNot(Npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "abcd")),
              HasSubstr("no plain array"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", "abcd")),
              HasSubstr("8 dimensions"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "abcd")), HasSubstr("[-1]"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "abcd")),
              HasSubstr("no array has the shape"));
}

TEST(Npy, RefusesDamagedFiles) {
  EXPECT_THAT(WhyNot("PK\x03\x04 this is an .npz"), HasSubstr("no .npy file"));
  EXPECT_THAT(WhyNot(""), HasSubstr("no .npy file"));
  const std::string good = Npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", "abcdefgh");
  ASSERT_TRUE(Parse(good));
  for (size_t size = 0; size < good.size(); ++size) EXPECT_FALSE(Parse(good.substr(0, size))) << size;
  EXPECT_THAT(WhyNot(good + "x"), HasSubstr("takes 8 bytes but the file has 9"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<f4', 'fortran_order': False, }", "abcd")), HasSubstr("no plain array"));
  EXPECT_THAT(WhyNot(Npy("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", "abcd")),
              HasSubstr("no plain array"));
  EXPECT_THAT(WhyNot(Npy("not a dictionary", "abcd")), HasSubstr("no plain array"));
  std::string version = good;
  version[6] = 9;
  EXPECT_THAT(WhyNot(version), HasSubstr("version 9"));
}

TEST_F(NpyFile, WritesWhatItReads) {
  for (const DTypeInfo& info : kDTypes) {
    for (const Shape& shape : {Shape{}, Shape{3}, Shape{2, 3}, Shape{0, 4}}) {
      const DType dtype = *ParseDType(info.name);
      std::vector<std::byte> bytes(*TensorBytes(dtype, shape));
      for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 2);
      const Tensor tensor = Tensor::Own("x", dtype, shape, bytes);
      ASSERT_TRUE(WriteNpy(Path("x.npy"), tensor).ok());
      EXPECT_EQ((std::filesystem::file_size(Path("x.npy")) -
                 *TensorBytes(dtype == DType::kBFloat16 ? DType::kFloat32 : dtype, shape)) %
                    64,
                0u);
      const auto read = ReadNpy(Path("x.npy"), "x");
      ASSERT_TRUE(read) << read.error().message();
      EXPECT_EQ(read->shape, shape);
      if (dtype == DType::kBFloat16) {
        EXPECT_EQ(read->dtype, DType::kFloat32);
        for (size_t i = 0; i < *shape.Elements(); ++i) {
          EXPECT_EQ(ElementAt(DType::kFloat32, read->bytes, i), ElementAt(dtype, tensor.bytes, i));
        }
      } else {
        EXPECT_EQ(read->dtype, dtype);
        EXPECT_TRUE(std::ranges::equal(read->bytes, tensor.bytes));
      }
    }
  }
}

TEST_F(NpyFile, ErrorsNameTheFile) {
  EXPECT_THAT(ReadNpy(Path("none.npy"), "x").error().message(), HasSubstr(Path("none.npy")));
  EXPECT_THAT(ReadNpy(Save("bad.npy", "hello"), "x").error().message(), HasSubstr(Path("bad.npy")));
  EXPECT_FALSE(WriteNpy(Path("no/such/folder.npy"), Tensor{}).ok());
}

TEST_F(NpyFile, InputArguments) {
  const std::string raw = Save("x.raw", "abcdefgh");
  const auto tensor = ReadInput("in=" + raw + ":float32:1,2");
  ASSERT_TRUE(tensor) << tensor.error().message();
  EXPECT_EQ(tensor->name, "in");
  EXPECT_EQ(tensor->shape, (Shape{1, 2}));
  EXPECT_TRUE(ReadInput("in=" + raw + ":float64:"));  // a scalar
  EXPECT_THAT(ReadInput("in=" + raw + ":float32:3").error().message(), HasSubstr("takes 12 bytes but the file has 8"));
  for (const char* bad : {"in", "=x.npy", "in=x.raw", "in=x.raw:float32", "in=x.raw:float12:1", "in=x.raw:float32:1,a",
                          "in=x.raw:float32:-1"}) {
    EXPECT_EQ(ReadInput(bad).error().code(), StatusCode::kInvalidArgument) << bad;
  }
}

TEST(SyntheticArgument, IsABatchAndMaybeASequence) {
  EXPECT_EQ(ParseSyntheticShape("4")->batch, 4u);
  EXPECT_EQ(ParseSyntheticShape("4x64")->sequence, 64u);
  for (const char* bad : {"", "0", "x", "4x", "4x0", "-1", "4x6x", "4.5"})
    EXPECT_FALSE(ParseSyntheticShape(bad)) << bad;
}

TEST(Elements, OfEveryType) {
  const auto element = [](DType dtype, auto value) { return ElementAt(dtype, std::as_bytes(std::span(&value, 1)), 0); };
  EXPECT_EQ(element(DType::kFloat32, 1.5f), 1.5);
  EXPECT_EQ(element(DType::kFloat64, -2.5), -2.5);
  EXPECT_EQ(element(DType::kFloat16, uint16_t{0xc100}), -2.5);
  EXPECT_EQ(element(DType::kFloat16, uint16_t{0x0001}), 0x1p-24);
  EXPECT_EQ(element(DType::kFloat16, uint16_t{0x7c00}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(element(DType::kBFloat16, uint16_t{0xc020}), -2.5);
  EXPECT_EQ(element(DType::kInt64, int64_t{-7}), -7);
  EXPECT_EQ(element(DType::kInt32, int32_t{-7}), -7);
  EXPECT_EQ(element(DType::kInt16, int16_t{-7}), -7);
  EXPECT_EQ(element(DType::kInt8, int8_t{-7}), -7);
  EXPECT_EQ(element(DType::kUInt8, uint8_t{200}), 200);
  EXPECT_EQ(element(DType::kBool, uint8_t{1}), 1);
}

}  // namespace
}  // namespace abacus
