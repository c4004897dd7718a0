#include "base/npy.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace abacus {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kAlignment = 64;  // of the data in a written file
constexpr size_t kMaxHeaderBytes = 64 * 1024;

struct Descr {
  std::string_view text;
  DType dtype;
};
constexpr std::array<Descr, 9> kDescrs = {{
    {"<f4", DType::kFloat32},
    {"<f2", DType::kFloat16},
    {"<f8", DType::kFloat64},
    {"<i8", DType::kInt64},
    {"<i4", DType::kInt32},
    {"<i2", DType::kInt16},
    {"|i1", DType::kInt8},
    {"|u1", DType::kUInt8},
    {"|b1", DType::kBool},
}};

// Reads the header's Python dictionary: string keys; string, boolean and tuple-of-integer values.
class DictReader {
 public:
  explicit DictReader(std::string_view text) : text_(text) {}

  bool Take(char c) {
    SkipSpace();
    if (text_.empty() || text_[0] != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::optional<std::string_view> TakeString() {
    SkipSpace();
    if (text_.empty() || (text_[0] != '\'' && text_[0] != '"')) return std::nullopt;
    const size_t end = text_.find(text_[0], 1);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view string = text_.substr(1, end - 1);
    text_.remove_prefix(end + 1);
    return string;
  }
  std::optional<bool> TakeBool() {
    SkipSpace();
    for (const auto& [word, value] : {std::pair{std::string_view("True"), true}, {std::string_view("False"), false}}) {
      if (!text_.starts_with(word)) continue;
      text_.remove_prefix(word.size());
      return value;
    }
    return std::nullopt;
  }
  // "()", "(3,)", "(3, 4)".
  std::optional<Shape> TakeShape() {
    if (!Take('(')) return std::nullopt;
    Shape shape;
    while (!Take(')')) {
      SkipSpace();
      int64_t dim = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), dim);
      if (error != std::errc() || !shape.push_back(dim)) return std::nullopt;
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      if (!Take(',') && (text_.empty() || text_[0] != ')')) return std::nullopt;
    }
    return shape;
  }
  bool AtEnd() {
    SkipSpace();
    return text_.empty();
  }

 private:
  void SkipSpace() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n')) text_.remove_prefix(1);
  }
  std::string_view text_;
};

struct Header {
  std::optional<std::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<Shape> shape;
};

std::optional<Header> ParseHeader(std::string_view text) {
  DictReader reader(text);
  Header header;
  if (!reader.Take('{')) return std::nullopt;
  while (!reader.Take('}')) {
    const auto key = reader.TakeString();
    if (!key || !reader.Take(':')) return std::nullopt;
    bool read = false;
    if (*key == "descr") read = (header.descr = reader.TakeString()).has_value();
    if (*key == "fortran_order") read = (header.fortran_order = reader.TakeBool()).has_value();
    if (*key == "shape") read = (header.shape = reader.TakeShape()).has_value();
    if (!read) return std::nullopt;
    reader.Take(',');
  }
  if (!reader.AtEnd() || !header.descr || !header.fortran_order || !header.shape) return std::nullopt;
  return header;
}

// What to tell about a type that no query can carry.
std::string TypeProblem(std::string_view descr) {
  if (descr.starts_with('>'))
    return "its data is big-endian; convert it with array.astype(array.dtype.newbyteorder('<'))";
  if (descr.ends_with('O')) return "it holds Python objects";
  std::string problem = "its dtype '" + std::string(descr.substr(0, 40)) + "' is none of";
  for (const Descr& known : kDescrs) problem += " " + std::string(known.text);
  return problem;
}

std::vector<std::byte> BFloat16ToFloat32(std::span<const std::byte> bytes) {
  std::vector<std::byte> wide(bytes.size() * 2, std::byte{0});
  for (size_t i = 0; i < bytes.size(); i += 2) {  // the upper half of a float32, little endian
    wide[2 * i + 2] = bytes[i];
    wide[2 * i + 3] = bytes[i + 1];
  }
  return wide;
}

}  // namespace

Result<NpyArray> ParseNpyArray(std::span<const std::byte> content, const std::string& source) {
  const auto fail = [&](std::string why) {
    return Error(StatusCode::kInvalidArgument, source + ": " + std::move(why));
  };
  const std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
  if (!text.starts_with(kMagic)) return fail("no .npy file (its first bytes are not \\x93NUMPY)");
  if (text.size() < 12) return fail("cut off inside its header");
  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(text[at])); };
  const size_t version = byte(6);
  if (version < 1 || version > 3) return fail("unknown .npy version " + std::to_string(version));
  const size_t length_bytes = version == 1 ? 2 : 4;
  size_t header_bytes = 0;
  for (size_t i = length_bytes; i-- > 0;) header_bytes = header_bytes << 8 | byte(8 + i);
  const size_t data_at = 8 + length_bytes + header_bytes;
  if (header_bytes > kMaxHeaderBytes)
    return fail("its header of " + std::to_string(header_bytes) + " bytes is too long");
  if (data_at > text.size()) return fail("cut off inside its header");

  const auto header = ParseHeader(text.substr(8 + length_bytes, header_bytes));
  if (!header) return fail("its header is no plain array of at most " + std::to_string(kMaxRank) + " dimensions");
  std::optional<DType> dtype;
  for (const Descr& known : kDescrs) {
    if (known.text == *header->descr) dtype = known.dtype;
  }
  if (!dtype) return fail(TypeProblem(*header->descr));
  if (*header->fortran_order) return fail("it is in Fortran order; convert it with numpy.ascontiguousarray");
  const auto elements = header->shape->Elements();  // bounded so that the product below fits
  if (!elements) return fail("no array has the shape " + header->shape->ToString());
  const uint64_t expected = *elements * DTypeBytes(*dtype);
  const auto data = content.subspan(data_at);
  if (data.size() != expected) {
    return fail("an array of shape " + header->shape->ToString() + " takes " + std::to_string(expected) +
                " bytes but the file has " + std::to_string(data.size()) + " after its header");
  }
  return NpyArray{*dtype, *header->shape, {data.begin(), data.end()}};
}

Result<NpyArray> ReadNpyArray(const std::filesystem::path& path) {
  const Result<std::string> content = ReadWholeFile(path);
  if (!content) return Error(content.error());
  return ParseNpyArray(std::as_bytes(std::span(*content)), path.string());
}

Status WriteNpyArray(const std::filesystem::path& path, DType dtype, const Shape& dims,
                     std::span<const std::byte> bytes) {
  if (dtype == DType::kBFloat16) return WriteNpyArray(path, DType::kFloat32, dims, BFloat16ToFloat32(bytes));
  std::string shape;
  for (int64_t dim : dims.dims()) shape += std::to_string(dim) + ", ";
  if (dims.rank() > 1) shape.resize(shape.size() - 2);
  std::string_view descr;
  for (const Descr& known : kDescrs) {
    if (known.dtype == dtype) descr = known.text;
  }
  std::string header = "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  constexpr size_t kFixedBytes = 10;  // magic, version, length
  header.append(kAlignment - 1 - (kFixedBytes + header.size()) % kAlignment, ' ');
  header += '\n';
  const std::array<char, 4> version_and_length = {1, 0, static_cast<char>(header.size() & 0xff),
                                                  static_cast<char>(header.size() >> 8)};
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << kMagic;
  out.write(version_and_length.data(), version_and_length.size());
  out << header;
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (out) return Status::Ok();
  return Status(StatusCode::kUnavailable, "cannot write " + path.string() + ": " + std::strerror(errno));
}

}  // namespace abacus
